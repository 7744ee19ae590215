package wire

import "bytes"

// AppendCompact appends a JSON document, which must be valid, without the white space between
// its parts (RFC 8259, section 2): it is one line then.
func AppendCompact(dst, document []byte) []byte {
	if bytes.IndexByte(document, ' ') < 0 && bytes.IndexByte(document, '\n') < 0 &&
		bytes.IndexByte(document, '\t') < 0 && bytes.IndexByte(document, '\r') < 0 {
		return append(dst, document...)
	}
	start, inside := 0, false
	for i := 0; i < len(document); i++ {
		switch document[i] {
		case '"':
			inside = !inside
		case '\\':
			i++ // stands in strings alone; what follows it ends none
		case ' ', '\n', '\t', '\r':
			if inside {
				continue
			}
			dst = append(dst, document[start:i]...)
			start = i + 1
		}
	}
	return append(dst, document[start:]...)
}
