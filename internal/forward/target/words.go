package target

import (
	"errors"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/forward"
)

// maxFault bounds what is told of a fault, in bytes, since a receiver may have written a part of it.
const maxFault = 400

// cut gives the beginning of a text, of at most so many bytes, and whole characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// clipped is cut for what is quoted in a sentence.
func clipped(text string) string { return cut(text, 100) }

// longFault is an error whose words were cut.
type longFault struct {
	words string
	err   error
}

func (e *longFault) Error() string { return e.words }

// Unwrap gives the error with all its words.
func (e *longFault) Unwrap() error { return e.err }

// boundedFault cuts the words of an error that are longer than maxFault, when the secrets of spec are
// taken out: a part of one would not be found any more.
func boundedFault(err error, spec *forward.Spec) error {
	if _, own := errors.AsType[*signalbox.Error](err); own || err == nil || len(err.Error()) <= maxFault {
		return err
	}
	return &longFault{cut(forward.Scrub(err.Error(), spec), maxFault), err}
}
