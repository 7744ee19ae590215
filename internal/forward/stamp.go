package forward

import "time"

const (
	// stampLayout is RFC 3339 with ms, in UTC.
	stampLayout = "2006-01-02T15:04:05.000Z"
	microsPerS  = 1_000_000
)

// stamp writes times. Neighbours in the log are mostly of the same second, whose text it keeps.
type stamp struct {
	second int64
	text   [len("2006-01-02T15:04:05.")]byte
	known  bool
}

// stamps are those of an encoder: times of receipt and of history go their own ways.
type stamps struct{ received, time stamp }

// append writes a time, of Unix µs. Parts of a millisecond are cut off.
func (s *stamp) append(dst []byte, micros int64) []byte {
	second := micros / microsPerS
	if micros < 0 { // before 1970
		return time.UnixMicro(micros).UTC().AppendFormat(dst, stampLayout)
	}
	if !s.known || second != s.second {
		text := time.Unix(second, 0).UTC().AppendFormat(make([]byte, 0, 40), "2006-01-02T15:04:05.")
		if len(text) != len(s.text) {
			return time.UnixMicro(micros).UTC().AppendFormat(dst, stampLayout)
		}
		copy(s.text[:], text)
		s.second, s.known = second, true
	}
	ms := micros % microsPerS / 1000
	dst = append(dst, s.text[:]...)
	return append(dst, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}
