package enum PreloadPlaceholder {}
import Wire
@c(anp_probe_swift) public func probe(_ n: CInt) -> CInt { n }
