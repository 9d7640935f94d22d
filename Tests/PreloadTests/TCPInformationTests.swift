// Owns: the image of TCP_INFO, read back through this machine's struct tcp_info (netinet/tcp.h has the fields up to
// tcpi_total_retrans) and at the offsets of linux/tcp.h for those after it.

import CSupport
import Netstack
import Testing

@testable import Preload

@Suite("TCP_INFO")
struct TCPInformationTests {
  @Test("each value is where linux/tcp.h has it")
  func layout() {
    var info = TCPInfo()
    info.state = 1
    info.optionTimestamps = true
    info.optionWindowScale = true
    info.sendWindowScale = 7
    info.receiveWindowScale = 9
    info.rto = 201_000
    info.sendMSS = 1448
    info.unacked = 3
    info.pathMTU = 1500
    info.rtt = 250
    info.sendCongestionWindow = 10
    info.totalRetransmits = 77
    info.bytesAcked = 0x1_0000_0001
    info.notSentBytes = 5
    info.minimumRTT = 120
    info.bytesSent = 1 << 40
    info.sendWindow = 65536
    var image = [UInt8](repeating: 0, count: TCPInformation.size)
    image.withUnsafeMutableBytes { TCPInformation.store(info, to: $0.baseAddress!) }
    image.withUnsafeBytes { bytes in
      #expect(bytes[0] == 1)
      #expect(bytes[5] == 1 | 4)
      #expect(bytes[6] == 7 | 9 << 4)
      func word(_ offset: Int) -> UInt32 { bytes.load(fromByteOffset: offset, as: UInt32.self) }
      func long(_ offset: Int) -> UInt64 { bytes.load(fromByteOffset: offset, as: UInt64.self) }
      #expect(word(8) == 201_000)
      #expect(word(16) == 1448)
      #expect(word(24) == 3)
      #expect(word(60) == 1500)
      #expect(word(68) == 250)
      #expect(word(80) == 10)
      #expect(word(100) == 77)
      #expect(long(120) == 0x1_0000_0001)
      #expect(word(144) == 5)
      #expect(word(148) == 120)
      #expect(long(200) == 1 << 40)
      #expect(word(228) == 65536)
    }
  }
}
