import Testing
@testable import Preload
@Test func x() { #expect(1 == 1) }
