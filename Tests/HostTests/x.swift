import Testing
@testable import Host
@Test func x() { #expect(1 == 1) }
