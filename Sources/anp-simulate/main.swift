// Runs the simulator for as long as one likes:
//
//   anp-simulate [--seeds N] [--first-seed S] [--failures F]    random transfers, one per seed (also SEEDS, FIRST_SEED)
//   anp-simulate --seed S [--lines N] [--events LEVEL]     one run, with its last frames; the stacks' own events between
//                                                          them (levels as in ANP_DEBUG: 1 errors … 5 everything)
//   anp-simulate --table                                   throughput for loss × round-trip time
//
// Exit code 1 if any run failed; the seed is printed with the failure.

import Glibc
import Netstack
import Simulation

/// A line at once, also into a pipe.
func say(_ text: String, to descriptor: Int32 = 1) {
  let line = text + "\n"
  _ = line.utf8.withContiguousStorageIfAvailable { write(descriptor, $0.baseAddress, $0.count) }
}

struct Arguments {
  var seeds = 1000
  var first: UInt64 = 1
  var single: UInt64?
  var lines = 80
  var table = false
  var keepGoing = 20
  var events = TraceLevel.off
}

func fail(_ message: String) -> Never {
  say("anp-simulate: \(message)", to: 2)
  exit(2)
}

func number(_ text: String?, _ name: String) -> Int {
  guard let text, let value = Int(text), value >= 0 else { fail("\(name) takes a number") }
  return value
}

func parse() -> Arguments {
  var arguments = Arguments()
  if let seeds = getenv("SEEDS") { arguments.seeds = number(String(cString: seeds), "SEEDS") }
  if let first = getenv("FIRST_SEED") { arguments.first = UInt64(number(String(cString: first), "FIRST_SEED")) }
  var rest = CommandLine.arguments.dropFirst()
  while let argument = rest.popFirst() {
    switch argument {
    case "--seeds": arguments.seeds = number(rest.popFirst(), argument)
    case "--first-seed": arguments.first = UInt64(number(rest.popFirst(), argument))
    case "--seed": arguments.single = UInt64(number(rest.popFirst(), argument))
    case "--lines": arguments.lines = number(rest.popFirst(), argument)
    case "--failures": arguments.keepGoing = number(rest.popFirst(), argument)
    case "--events":
      arguments.events = TraceLevel(rawValue: UInt8(clamping: number(rest.popFirst(), argument))) ?? .trace
    case "--table": arguments.table = true
    default: fail("unknown argument \(argument)")
    }
  }
  return arguments
}

func report(_ outcome: Outcome, _ seed: UInt64) {
  guard let failure = outcome.failure else { return }
  say("seed \(seed): \(failure)")
  for line in outcome.trace { say("  \(line)") }
}

let arguments = parse()
if arguments.table {
  say(Throughput.table())
  exit(0)
}
if let seed = arguments.single {
  let plan = Plan.random(seed)
  say(plan.description)
  let outcome = Transfer.run(plan, traceLines: arguments.lines, events: arguments.events)
  report(outcome, seed)
  say("\(outcome.segments) segments, \(outcome.duration.milliseconds) ms")
  exit(outcome.failure == nil ? 0 : 1)
}
var failed = 0
var segments = 0
for i in 0..<arguments.seeds {
  let seed = arguments.first + UInt64(i)
  let outcome = Transfer.run(Plan.random(seed), traceLines: 0)
  segments += outcome.segments
  if outcome.failure != nil {
    failed += 1
    report(outcome, seed)
    if failed == arguments.keepGoing { break }
  }
  if (i + 1) % 1000 == 0 { say("\(i + 1) seeds, \(segments) segments, \(failed) failed") }
}
say("\(arguments.seeds) seeds from \(arguments.first): \(segments) segments, \(failed) failed")
exit(failed == 0 ? 0 : 1)
