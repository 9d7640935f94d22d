import Testing
@testable import Simulation
@Test func x() { #expect(1 == 1) }
