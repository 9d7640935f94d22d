// Owns: cutting a packet that is larger than the path's MTU into fragments. Read first: RFC 791 §2.3 and §3.2 ("Fragmentation"),
// RFC 6864 (the identification field), RFC 8200 §4.5. The caller has judged DF.

import Wire

package enum Fragmentation {
  /// How many pieces a packet of `length` bytes makes.
  package static func pieces(length: Int, headerLength: Int, mtu: Int) -> Int {
    let perPiece = max(8, (mtu - headerLength) & ~7)
    return (length - headerLength + perPiece - 1) / perPiece
  }

  /// Copies `packet` into pieces of at most `mtu` bytes (at least 28), each with its own header and with headroom for the
  /// link's. The packet starts with a 20-byte IPv4 header as `IPv4Header.write` makes it, its transport checksum is
  /// complete; it stays the caller's. nil when buffers run out.
  package static func cut(_ packet: PacketBuffer, mtu: Int, pool: inout BufferPool) -> PacketQueue? {
    let total = packet.count
    let (parsed, _) = IPv4Header.parse(packet.readable, length: total)
    guard let whole = parsed, whole.headerLength == IPv4Header.minimumLength else { return nil }
    let perPiece = max(8, (mtu - whole.headerLength) & ~7)
    let payload = whole.totalLength - whole.headerLength
    var queue = PacketQueue()
    var offset = 0
    while offset < payload {
      let length = min(perPiece, payload - offset)
      guard let piece = copy(packet, from: whole.headerLength + offset, length: length, pool: &pool) else {
        pool.releaseAll(&queue)
        return nil
      }
      var header = whole
      header.totalLength = IPv4Header.minimumLength + length
      // A piece of a fragment keeps its place in the whole, and only the last piece may be the last of all.
      header.fragmentOffset = whole.fragmentOffset + offset
      if offset + length < payload { header.flags |= IPv4Header.flagMoreFragments }
      header.write(to: piece.push(IPv4Header.minimumLength))
      piece.storage.pointee.nextHop = packet.storage.pointee.nextHop
      piece.storage.pointee.source = packet.storage.pointee.source
      piece.storage.pointee.destination = packet.storage.pointee.destination
      queue.append(piece)
      offset += length
    }
    return queue
  }

  /// The same for a packet that starts with a plain IPv6 header; `mtu` is at least 1280.
  package static func cutIPv6(
    _ packet: PacketBuffer, mtu: Int, identification: UInt32, pool: inout BufferPool
  ) -> PacketQueue? {
    let headers = IPv6Header.length + IPv6Fragment.length
    guard var header = IPv6Header(quoted: packet.readable) else { return nil }
    let perPiece = (mtu - headers) & ~7
    let payload = packet.count - IPv6Header.length
    let proto = header.nextHeader
    header.nextHeader = IPv6Extension.fragment
    var queue = PacketQueue()
    var offset = 0
    while offset < payload {
      let length = min(perPiece, payload - offset)
      guard let piece = copy(packet, from: IPv6Header.length + offset, length: length, pool: &pool) else {
        pool.releaseAll(&queue)
        return nil
      }
      let base = piece.push(headers)
      header.payloadLength = IPv6Fragment.length + length
      header.write(to: base)
      IPv6Fragment(
        nextHeader: proto, offset: offset, moreFollow: offset + length < payload, identification: identification
      ).write(to: base + IPv6Header.length)
      queue.append(piece)
      offset += length
    }
    return queue
  }

  private static func copy(
    _ packet: PacketBuffer, from offset: Int, length: Int, pool: inout BufferPool
  ) -> PacketBuffer? {
    guard let piece = pool.allocateForTransmit() else { return nil }
    if length <= piece.tailroom {
      _ = packet.copy(from: offset, to: UnsafeMutableRawBufferPointer(start: piece.put(length), count: length))
      return piece
    }
    guard pool.attachLarge(piece), let large = piece.storage.pointee.large else {
      pool.release(piece)
      return nil
    }
    _ = packet.copy(from: offset, to: UnsafeMutableRawBufferPointer(start: large, count: length))
    piece.addFragment(large, length)
    return piece
  }
}
