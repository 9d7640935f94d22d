// Owns: where log, capture and statistics go: standard error as it was when the stack started, or a file whose name may
// contain %p for the process id.

import CSupport

enum OutputFile {
  /// A descriptor out of the program's way, -1 for `.none`; nil where the file cannot be opened, which is then said.
  /// - Parameter fresh: begin the file anew instead of adding to it.
  static func open(_ output: HostConfiguration.Output, _ variable: StaticString, fresh: Bool) -> Int32? {
    switch output {
    case .none: return -1
    case .standardError:
      // Closed by the program: then there is nobody to tell, and that is no error.
      guard anp_standard_error_usable() != 0 else { return -1 }
      let copy = anp_duplicate_descriptor(2)
      return copy < 0 ? -1 : copy
    case .file(let name):
      var memory = InlineArray<4096, CChar>(repeating: 0)
      let result = withUnsafeMutableBytes(of: &memory) { raw in
        var path = TextBuffer(UnsafeMutableRawBufferPointer(rebasing: raw[..<4095]))
        expand(name, to: &path)
        raw[path.count] = 0
        return anp_open_output(raw.baseAddress!.assumingMemoryBound(to: CChar.self), fresh ? 1 : 0)
      }
      guard result >= 0 else {
        report { text in
          text.append(variable)
          text.append("=")
          text.append(cString: name)
          text.append(" cannot be used: it takes the name of a file that can be written (error ")
          text.append(Int(-result))
          text.append(")")
        }
        return nil
      }
      return result
    }
  }

  /// %p becomes the process id, %% a percent sign.
  static func expand(_ name: UnsafePointer<CChar>, to path: inout TextBuffer) {
    var at = name
    while at.pointee != 0 {
      if at[0] == CChar(bitPattern: UInt8(ascii: "%")), at[1] == CChar(bitPattern: UInt8(ascii: "p")) {
        path.append(UInt64(anp_process_id()))
        at += 2
      } else if at[0] == CChar(bitPattern: UInt8(ascii: "%")), at[1] == at[0] {
        path.append(byte: UInt8(ascii: "%"))
        at += 2
      } else {
        path.append(byte: UInt8(bitPattern: at.pointee))
        at += 1
      }
    }
  }
}
