// Owns: virtual time. Everything that will happen waits in one queue, ordered by time and then by when it was scheduled, so a
// run is a pure function of its seed; the clock jumps from one event to the next. Two or more hosts, joined by links.

import Netstack

/// Sees every frame, and may fail the run.
package protocol Observer: AnyObject {
  func sent(_ frame: Frame, by host: Host)
  func received(_ frame: Frame, by host: Host)
  func noted(_ event: TraceEvent, by host: Host)
}

package final class World {
  enum Event {
    case arrive(Host, Frame)
    case poll(Host)
    case deviceRead(Host)
    case timer(Host, UInt64)
    case program(Host, any Program)
  }

  private struct Entry {
    var time: Instant
    var order: UInt64
    var event: Event
  }

  package private(set) var now: Instant
  package private(set) var hosts: [Host] = []
  package var observer: (any Observer)?
  /// The first thing that went wrong.
  package private(set) var failure: String?
  package private(set) var eventCount = 0

  private var heap: [Entry] = []
  private var order: UInt64 = 0
  /// Each host's link outwards, and who is at its other end.
  private var links: [ObjectIdentifier: (link: Link, to: Host)] = [:]
  /// The timer event of each host that counts: earlier ones are stale.
  private var timers: [ObjectIdentifier: (at: Instant, version: UInt64)] = [:]
  private var timerVersion: UInt64 = 0

  package init(now: Instant) { self.now = now }

  package func fail(_ message: String) { if failure == nil { failure = message } }

  // MARK: Hosts and links

  package func add(_ host: Host) {
    hosts.append(host)
    for queue in host.queues { queue.service() }
  }

  package func connect(_ from: Host, to: Host, _ link: Link) { links[ObjectIdentifier(from)] = (link, to) }

  package func link(from host: Host) -> Link { links[ObjectIdentifier(host)]!.link }

  package func changeConditions(of host: Host, _ change: (inout LinkConditions) -> Void) {
    change(&links[ObjectIdentifier(host)]!.link.conditions)
  }

  func carry(_ frame: Frame, from host: Host) {
    // Before a host is wired up its frames go nowhere.
    guard let to = links[ObjectIdentifier(host)]?.to else { return }
    links[ObjectIdentifier(host)]!.link.send(frame, now: now) { arrival, frame in
      schedule(.arrive(to, frame), at: arrival)
    }
  }

  // MARK: Events

  func schedule(_ event: Event, at time: Instant) {
    order += 1
    heap.append(Entry(time: max(time, now), order: order, event: event))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard Self.precedes(heap[child], heap[parent]) else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  private static func precedes(_ a: Entry, _ b: Entry) -> Bool {
    a.time == b.time ? a.order < b.order : a.time < b.time
  }

  private func removeFirst() -> Entry {
    heap.swapAt(0, heap.count - 1)
    let first = heap.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && Self.precedes(heap[child], heap[least]) {
        least = child
      }
      if least == parent { break }
      heap.swapAt(parent, least)
      parent = least
    }
    return first
  }

  /// Sees to it that the host's stack is called at its next deadline.
  func rearm(_ host: Host) {
    let id = ObjectIdentifier(host)
    guard let deadline = host.nextDeadline else {
      timers[id] = nil
      return
    }
    let at = max(deadline, now)
    if let armed = timers[id], armed.at == at { return }
    timerVersion += 1
    timers[id] = (at, timerVersion)
    schedule(.timer(host, timerVersion), at: at)
  }

  /// Runs until `done` says so, nothing is left to happen, `limit` is reached, or something failed. True if `done`.
  @discardableResult
  package func run(until limit: Instant, _ done: () -> Bool = { false }) -> Bool {
    while failure == nil {
      if done() { return true }
      guard let next = heap.first else { return false }
      guard next.time <= limit else {
        now = limit
        return false
      }
      let entry = removeFirst()
      now = entry.time
      eventCount += 1
      handle(entry.event)
    }
    return false
  }

  private func handle(_ event: Event) {
    switch event {
    case .arrive(let host, let frame): host.arrive(frame)
    case .poll(let host): host.poll()
    case .deviceRead(let host): host.deviceRead()
    case .timer(let host, let version):
      guard timers[ObjectIdentifier(host)]?.version == version else { return }
      timers[ObjectIdentifier(host)] = nil
      host.advance()
    case .program(let host, let program):
      program.timer(on: host)
      host.service()
    }
  }
}
