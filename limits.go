package signalbox

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits that are part of the vocabulary: they bound what can be named and stored,
// and are the same everywhere. What an operator may tune is configuration.
const (
	// MaxNameLen is the longest device, type, user or token name, in characters.
	MaxNameLen = 64
	// MaxCommandNameLen is the longest command name, in bytes.
	MaxCommandNameLen = 64
	// MaxCommandValueLen is the longest command value, in bytes.
	MaxCommandValueLen = 4096
	// MaxIdempotencyKeyLen is the longest idempotency key, in bytes.
	MaxIdempotencyKeyLen = 128
	// MaxCommandTTL is the longest a command may wait for an offline device.
	MaxCommandTTL = 30 * 24 * time.Hour
	// MaxCommandTimeout is the longest an answer may be awaited.
	MaxCommandTimeout = 24 * time.Hour
	// MaxPasswordLen is the longest password of a person, in bytes: what bcrypt reads.
	MaxPasswordLen = 72
	// MaxDeviceSecretLen is the longest device secret, in bytes.
	MaxDeviceSecretLen = 128
)

// CheckName tells whether name may name a device: 1 to 64 characters, letters of any
// script, digits, «.», «_» and «-». what is the noun in the error, such as
// «device name».
func CheckName(what, name string) error {
	if name == "" {
		return Errorf(KindInvalid, "invalid_name", "the %s is empty; it needs 1 to %d characters", what, MaxNameLen)
	}
	if !utf8.ValidString(name) {
		return Errorf(KindInvalid, "invalid_name", "the %s %q is not valid UTF-8", what, name)
	}
	if n := utf8.RuneCountInString(name); n > MaxNameLen {
		return Errorf(KindInvalid, "invalid_name", "the %s has %d characters; at most %d are allowed", what, n, MaxNameLen)
	}
	if name == "." || name == ".." {
		return Errorf(KindInvalid, "invalid_name", "the %s may not be %q, which means a folder in addresses", what, name)
	}
	for _, r := range name {
		if r == '.' || r == '_' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) {
			continue
		}
		return Errorf(KindInvalid, "invalid_name",
			"the %s %q holds %q; allowed are letters, digits, «.», «_» and «-»", what, name, r)
	}
	return nil
}

// CheckField tells whether path may name a field of telemetry: its key, or the keys of nested objects
// joined with dots. Each part has one character or more, and all is UTF-8. what is the noun in the
// error, such as «field».
func CheckField(what, path string) error {
	switch {
	case path == "":
		return Errorf(KindInvalid, "invalid_field", "the %s is empty; allowed are names and dotted paths, such as temp and bme.temp", what)
	case !utf8.ValidString(path):
		return Errorf(KindInvalid, "invalid_field", "the %s %.100q is not valid UTF-8", what, path)
	case path[0] == '.' || path[len(path)-1] == '.' || strings.Contains(path, ".."):
		return Errorf(KindInvalid, "invalid_field", "the %s %.100q has an empty part; allowed are names and dotted paths, such as temp and bme.temp", what, path)
	}
	return nil
}
