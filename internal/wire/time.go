package wire

import "time"

// AppendTime appends a time, Unix µs, as the hub writes all times: RFC 3339 (section 5.6), UTC,
// milliseconds, without quotes. What is below a millisecond is cut off.
func AppendTime(dst []byte, micros int64) []byte {
	const day = 86_400_000
	// From 1 March 0000 to the end of 9999 a year has four digits and begins with its March.
	const low, high = -62_162_035_200_000_000, 253_402_300_800_000_000
	if micros < low || micros >= high {
		return time.UnixMicro(micros).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	}
	ms := (micros - low) / 1000
	days, ms := ms/day, ms%day
	// Years of 365.2425 days, counted from March so that the leap day is the last of its year.
	era := days / 146_097
	of := days % 146_097
	year := (of - of/1460 + of/36_524 - of/146_096) / 365
	at := of - (365*year + year/4 - year/100)
	month := (5*at + 2) / 153
	date := at - (153*month+2)/5 + 1
	year += 400 * era
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	seconds := ms / 1000
	dst = appendTwo(appendTwo(dst, year/100), year%100)
	dst = appendTwo(append(dst, '-'), month)
	dst = appendTwo(append(dst, '-'), date)
	dst = appendTwo(append(dst, 'T'), seconds/3600)
	dst = appendTwo(append(dst, ':'), seconds/60%60)
	dst = appendTwo(append(dst, ':'), seconds%60)
	ms %= 1000
	return append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendTwo appends n, 0 to 99, as two digits.
func appendTwo(dst []byte, n int64) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }
