package packet

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzDecode: no input makes Decode panic or change its input, every error is an *Error with a
// section, and what decodes encodes to something that decodes to the same.
func FuzzDecode(f *testing.F) {
	for _, g := range goldens() {
		f.Add(g.want, byte(g.v))
	}
	var used Packet // each input meets what the one before left in it
	f.Fuzz(func(t *testing.T, b []byte, v byte) {
		version := Version(v)
		was := string(b)
		var fresh Packet
		err := fresh.Decode(b, version)
		if again := used.Decode(b, version); (again == nil) != (err == nil) {
			t.Fatalf("a used packet says %v, a fresh one %v", again, err)
		}
		if string(b) != was {
			t.Fatal("the input has changed")
		}
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Reason < UnspecifiedError || e.Section == "" || !utf8.ValidString(e.Error()) {
				t.Fatalf("the error %+v", err)
			}
			return
		}
		if fresh.Type == CONNECT {
			version = fresh.Connect.Version
		}
		checkSame(t, &fresh, version)
		checkSame(t, &used, version)
		checkForwarded(t, &fresh)
	})
}

// checkForwarded passes the properties of a PUBLISH on and wants them back.
func checkForwarded(t *testing.T, p *Packet) {
	t.Helper()
	if p.Type != PUBLISH {
		return
	}
	var q Properties
	b := AppendForwarded(nil, &p.Properties)
	if err := q.DecodeForwarded(b); err != nil {
		t.Fatalf("what is passed on does not decode: %v", err)
	}
	if again := AppendForwarded(nil, &q); string(again) != string(b) {
		t.Fatalf("passed on % x, read back % x", b, again)
	}
}

// FuzzSize: Size agrees with a plain reading of 2.1.4, whatever follows the fixed header.
func FuzzSize(f *testing.F) {
	for _, g := range goldens() {
		f.Add(g.want)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		total, ok, err := Size(b)
		length, bytes := 0, 1
		for bytes < len(b) && bytes < 5 {
			length += int(b[bytes]&0x7F) << (7 * (bytes - 1))
			bytes++
			if b[bytes-1] < 0x80 {
				break
			}
		}
		complete := bytes > 1 && b[bytes-1] < 0x80
		switch {
		case err != nil:
			if ok || total != 0 {
				t.Fatalf("an error and %d %v", total, ok)
			}
			if len(b) > 0 && validHeader(b[0]) && (complete || bytes < 5) {
				t.Fatalf("% x: %v", b, err)
			}
			var p Packet
			if p.Decode(b, V311) == nil {
				t.Fatalf("% x: Size says %v, Decode takes it", b, err)
			}
		case ok != complete:
			t.Fatalf("% x: ok %v, want %v", b, ok, complete)
		case ok && total != bytes+length:
			t.Fatalf("% x: %d, want %d", b, total, bytes+length)
		}
	})
}

// FuzzMatch: Match agrees with a reading of 4.7 level by level, and the checks with one another.
func FuzzMatch(f *testing.F) {
	f.Add("sport/+/player1/#", "sport/tennis/player1")
	f.Add("#", "$SYS/x")
	f.Add("$share/g/a/+", "a/b")
	f.Add("+/#", "/")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		topicErr, filterErr := CheckTopic(topic), CheckFilter(filter)
		if (topicErr == nil) != (CheckTopic([]byte(topic)) == nil) || (filterErr == nil) != (CheckFilter([]byte(filter)) == nil) {
			t.Fatal("string and bytes are checked differently")
		}
		if topicErr == nil && CheckFilter(topic) != nil {
			if _, _, shared := Share(topic); shared || len(topic) < len(sharePrefix) || topic[:len(sharePrefix)] != sharePrefix {
				t.Fatalf("%q is a topic and no filter", topic)
			}
		}
		if want := utf8.ValidString(topic) && !strings.Contains(topic, "\x00"); ValidText([]byte(topic)) != want {
			t.Fatalf("%q is checked wrongly", topic)
		}
		if topicErr != nil || filterErr != nil {
			Match(filter, topic) // it may say anything, it must return
			return
		}
		_, rest, _ := Share(filter)
		got := Match(rest, topic)
		if got != matchSimply(rest, topic) || got != Match(rest, []byte(topic)) {
			t.Fatalf("%q and %q: %v", rest, topic, got)
		}
	})
}
