// swift-tools-version: 6.2
import PackageDescription

// The shipped library is Embedded Swift (trait `Embedded`): it needs libc and nothing else, and starts as fast as an
// empty library. Tests, the simulator and the command build the same sources as ordinary Swift.
let onlyEmbedded: BuildSettingCondition = .when(traits: ["Embedded"])

let core: [SwiftSetting] = [
  .enableExperimentalFeature("Embedded", onlyEmbedded),
  .unsafeFlags(
    [
      "-wmo", "-enforce-exclusivity=unchecked",
      "-Xfrontend", "-disable-implicit-string-processing-module-import",
      "-Xfrontend", "-disable-implicit-concurrency-module-import",
      "-Xfrontend", "-function-sections",
    ], onlyEmbedded),
  .swiftLanguageMode(.v6),
]

let hosted: [SwiftSetting] = [.swiftLanguageMode(.v6)]

let cFlags: [CSetting] = [
  .unsafeFlags(["-std=gnu17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fno-plt"])
]

let package = Package(
  name: "anp",
  products: [
    .library(name: "anp", type: .dynamic, targets: ["Preload", "CInterpose"]),
    .executable(name: "anp-command", targets: ["AnpCommand"]),
  ],
  traits: [
    .trait(name: "Embedded", description: "Build the stack as Embedded Swift, as shipped in libanp.so.")
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")
  ],
  targets: [
    .target(name: "CSupport", path: "CShim/Support", cSettings: cFlags),
    // c-ares becomes a part of the library: nothing of it is exported, nothing needed at run time.
    .target(
      name: "CNames", dependencies: ["CSupport"], path: "CShim/Names", cSettings: cFlags,
      linkerSettings: [.unsafeFlags(["-Xlinker", "-l:libcares.a"])]),
    .target(
      name: "CInterpose", dependencies: ["CSupport", "CNames"], path: "CShim/Interpose", exclude: ["anp.map"],
      cSettings: cFlags,
      linkerSettings: [
        .unsafeFlags(
          [
            "-use-ld=lld",
            "-Xlinker", "--version-script=\(Context.packageDirectory)/CShim/Interpose/anp.map",
            "-Xlinker", "-z", "-Xlinker", "nodelete", "-Xlinker", "--exclude-libs=ALL", "-Xlinker", "-Bsymbolic",
            "-Xlinker", "--gc-sections", "-Xlinker", "-z", "-Xlinker", "keep-text-section-prefix",
          ], onlyEmbedded)
      ]),
    .target(name: "Wire", swiftSettings: core),
    .target(name: "Netstack", dependencies: ["Wire"], swiftSettings: core),
    .target(name: "Host", dependencies: ["Netstack", "CSupport"], swiftSettings: core),
    .target(name: "Preload", dependencies: ["Host", "CSupport"], swiftSettings: core),
    .target(name: "Simulation", dependencies: ["Netstack", "Wire"], swiftSettings: hosted),
    .executableTarget(
      name: "anp-simulate", dependencies: ["Simulation", "Netstack"], path: "Sources/anp-simulate",
      swiftSettings: hosted),
    .target(
      name: "CLauncher", path: "CShim/Launcher", cSettings: cFlags + [.headerSearchPath("../Support/include")],
      linkerSettings: [.linkedLibrary("cap")]),
    .executableTarget(
      name: "AnpCommand",
      dependencies: ["CLauncher", .product(name: "ArgumentParser", package: "swift-argument-parser")],
      path: "Sources/anp", swiftSettings: hosted),
    .testTarget(name: "WireTests", dependencies: ["Wire"], swiftSettings: hosted),
    .testTarget(name: "NetstackTests", dependencies: ["Netstack"], swiftSettings: hosted),
    .testTarget(name: "HostTests", dependencies: ["Host"], swiftSettings: hosted),
    .testTarget(name: "SimulationTests", dependencies: ["Simulation", "Netstack", "Wire"], swiftSettings: hosted),
    .testTarget(name: "PreloadTests", dependencies: ["Preload"], swiftSettings: hosted),
  ]
)
