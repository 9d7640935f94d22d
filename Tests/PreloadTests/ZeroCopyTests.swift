import Testing

@testable import Preload

@Suite("MSG_ZEROCOPY's notifications")
struct ZeroCopyTests {
  private func text(_ range: ZeroCopyQueue.Range?) -> String {
    guard let range else { return "none" }
    return "\(range.first)-\(range.last)\(range.isCopied ? " copied" : "")"
  }

  @Test("Calls are counted from 0; neighbours that say the same are one range")
  func ranges() {
    var queue = ZeroCopyQueue()
    #expect(queue.isEmpty && text(queue.removeFirst()) == "none")
    for isCopied in [false, false, true, false] { queue.append(isCopied: isCopied) }
    #expect(text(queue.removeFirst()) == "0-1")
    #expect(text(queue.removeFirst()) == "2-2 copied")
    queue.append(isCopied: false)
    #expect(text(queue.removeFirst()) == "3-4")
    #expect(queue.isEmpty && text(queue.removeFirst()) == "none")
    queue.append(isCopied: true)
    #expect(text(queue.removeFirst()) == "5-5 copied")
  }

  @Test("With no room for another range the last one grows, and says the worse of both")
  func full() {
    var queue = ZeroCopyQueue()
    for number in 0..<10 { queue.append(isCopied: number % 2 == 1) }
    #expect(text(queue.removeFirst()) == "0-0")
    #expect(text(queue.removeFirst()) == "1-1 copied")
    #expect(text(queue.removeFirst()) == "2-2")
    #expect(text(queue.removeFirst()) == "3-9 copied")
    #expect(queue.isEmpty)
  }
}
