package packet

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// ascii reports whether eight bytes are all U+0001 to U+007F: the usual text, which needs no
// further look. Subtracting one from each byte sets the high bit of a zero.
func ascii(x uint64) bool { return (x|(x-ones))&highs == 0 }

// ValidText reports whether b is what a UTF-8 Encoded String may hold: well-formed, without
// surrogates [MQTT-1.5.4-1] and without U+0000 [MQTT-1.5.4-2] (3.1.1: MQTT-1.5.3-1 and -2). Its
// length is not looked at. U+FEFF is a character like others [MQTT-1.5.4-3].
func ValidText(b []byte) bool {
	for len(b) >= 8 {
		if !ascii(binary.LittleEndian.Uint64(b)) {
			return validSlow(b)
		}
		b = b[8:]
	}
	for _, c := range b {
		if c-1 >= 0x7F {
			return validSlow(b)
		}
	}
	return true
}

func validSlow(b []byte) bool {
	return !slices.Contains(b, 0) && utf8.Valid(b)
}

// CheckPayload looks at a payload whose Payload Format Indicator says that it is UTF-8; the
// standard lets a receiver do so (5.0, 3.3.2.3.2). U+0000 is allowed there. Properties are
// those of the PUBLISH, or of the will. The Error's reason is PayloadFormatInvalid.
func CheckPayload(p *Properties, payload []byte) error {
	if p.Has(PayloadFormat) && p.PayloadFormat == 1 && !utf8.Valid(payload) {
		return fault(PayloadFormatInvalid, "3.3.2.3.2",
			"the Payload Format Indicator says that the payload is UTF-8, and it is not")
	}
	return nil
}

// textError is the error for a string that ValidText refuses.
func textError(what string) error {
	return malformed("MQTT-1.5.4-1", "the %s is not well-formed UTF-8 without U+0000", what)
}
