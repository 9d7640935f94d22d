import Testing
@testable import Netstack
@Test func x() { #expect(1 == 1) }
