package mapped

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Bounds of a number with a unit, in bytes.
const (
	maxNumber = 64
	maxUnit   = 16
)

var (
	errNoNumber     = errors.New("the payload does not begin with a number; allowed is a decimal number such as 25.8, with a unit behind it if need be")
	errComma        = errors.New("the number has a comma, which may divide decimals or thousands; allowed is a point for decimals and nothing for thousands")
	errLongNumber   = errors.New("the number has more than 64 characters")
	errInfinite     = errors.New("the number is too large; allowed is up to 1.7e308")
	errUnit         = errors.New("what follows the number is no unit; allowed are at most 16 bytes of UTF-8 that begin with a letter or a sign such as % or °, without spaces")
	errHexadecimal  = errors.New("the number is hexadecimal; allowed are decimal numbers")
	errInvalidBytes = errors.New("the payload is not valid UTF-8")
)

// appendNumber appends to b the number that the payload begins with as JSON has it (RFC 8259,
// section 6): in its own spelling but for what JSON does not allow, a plus sign in front, missing
// or surplus zeros before the point, and a point with nothing behind it. A unit may follow.
func appendNumber(b, payload []byte) ([]byte, error) {
	p := trim(payload)
	whole, fraction, exponent, negative, rest := splitNumber(p)
	if len(whole)+len(fraction) == 0 {
		return b, errNoNumber
	}
	if err := checkUnit(rest, len(whole) == 1 && whole[0] == '0'); err != nil {
		return b, err
	}
	if len(p)-len(rest) > maxNumber {
		return b, errLongNumber
	}
	start := len(b)
	if negative {
		b = append(b, '-')
	}
	if whole = bytes.TrimLeft(whole, "0"); len(whole) == 0 {
		b = append(b, '0')
	}
	b = append(b, whole...)
	if len(fraction) > 0 {
		b = append(b, '.')
		b = append(b, fraction...)
	}
	b = append(b, exponent...)
	if len(exponent) > 0 {
		if f, err := strconv.ParseFloat(string(b[start:]), 64); err != nil || math.IsInf(f, 0) {
			return b[:start], errInfinite
		}
	}
	return b, nil
}

// splitNumber takes a decimal number apart: the digits before and behind the point, and the
// exponent with its e. rest is what follows.
func splitNumber(p []byte) (whole, fraction, exponent []byte, negative bool, rest []byte) {
	if len(p) > 0 && (p[0] == '+' || p[0] == '-') {
		negative = p[0] == '-'
		p = p[1:]
	}
	n := digits(p)
	whole, p = p[:n], p[n:]
	if len(p) > 0 && p[0] == '.' {
		n = digits(p[1:])
		if len(whole)+n > 0 {
			fraction, p = p[1:1+n], p[1+n:]
		}
	}
	if len(whole)+len(fraction) > 0 && len(p) > 1 && (p[0] == 'e' || p[0] == 'E') {
		at := 1
		if p[1] == '+' || p[1] == '-' {
			at = 2
		}
		if n = digits(p[at:]); n > 0 {
			exponent, p = p[:at+n], p[at+n:]
		}
	}
	return whole, fraction, exponent, negative, p
}

func digits(p []byte) int {
	n := 0
	for n < len(p) && p[n] >= '0' && p[n] <= '9' {
		n++
	}
	return n
}

// checkUnit tells whether rest, which follows a number, is nothing or a unit. zero says that
// the number is a single 0.
func checkUnit(rest []byte, zero bool) error {
	unit := trim(rest)
	switch {
	case len(unit) == 0:
		return nil
	case unit[0] == ',':
		return errComma
	case zero && len(unit) == len(rest) && (unit[0] == 'x' || unit[0] == 'X'):
		return errHexadecimal
	case !utf8.Valid(unit):
		return errInvalidBytes
	case len(unit) > maxUnit:
		return errUnit
	}
	for i, r := range string(unit) {
		switch {
		case i > 0 && unicode.IsPrint(r) && !unicode.IsSpace(r):
		case i == 0 && (unicode.IsLetter(r) || r == '%' || r == '\'' || r == '"' || r == '/' || r == '$' || r > unicode.MaxASCII && unicode.IsPrint(r) && !unicode.IsDigit(r)):
		default:
			return errUnit
		}
	}
	return nil
}

// trim takes white space off both ends, the spaces that do not break (U+00A0, U+202F) included.
func trim(p []byte) []byte { return bytes.TrimFunc(p, blank) }

func blank(r rune) bool {
	switch r {
	case ' ', '\t', '\r', '\n', '\u00a0', '\u202f':
		return true
	default:
		return false
	}
}

// isNumber reports whether p is a number just as JSON spells it.
func isNumber(p []byte) bool {
	whole, fraction, _, _, rest := splitNumber(p)
	switch {
	case len(rest) != 0 || len(whole) == 0 || len(p) > maxNumber || p[0] == '+':
		return false
	case len(whole) > 1 && whole[0] == '0':
		return false
	case len(fraction) == 0 && bytes.IndexByte(p, '.') >= 0:
		return false
	case bytes.ContainsAny(p, "eE"):
		f, err := strconv.ParseFloat(string(p), 64)
		return err == nil && !math.IsInf(f, 0)
	}
	return true
}
