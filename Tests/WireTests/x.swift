import Testing
@testable import Wire
@Test func x() { #expect(1 == 1) }
