package target

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"signalbox/internal/forward"
)

func TestBoundedFault(t *testing.T) {
	spec := &forward.Spec{To: "ws://h.example/?key=s3cret-of-url"}
	short := errors.New("short")
	if got := boundedFault(short, spec); got != short { //nolint:errorlint // the same, not one like it
		t.Errorf("a short one became %v", got)
	}
	for _, shift := range []int{0, 1, 2, 3} {
		long := errors.Join(io.EOF, errors.New(strings.Repeat("x", maxFault-12+shift)+"s3cret-of-url"+strings.Repeat("я", 40_000)))
		got := boundedFault(long, spec)
		if text := got.Error(); len(text) > maxFault+len("…") || !utf8.ValidString(text) || strings.Contains(text, "s3c") {
			t.Errorf("%d bytes are left: %s", len(text), text)
		}
		if !errors.Is(got, io.EOF) {
			t.Error("the error around is lost")
		}
	}
}
