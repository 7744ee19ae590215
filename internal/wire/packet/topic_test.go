package packet

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCheckTopic(t *testing.T) {
	for _, r := range []struct {
		name, topic string
		want        Reason // Success: nothing is wrong
	}{
		{"a level", "a", Success},
		{"eight bytes", "abcdefgh", Success},
		{"more", "signalbox/boiler-room/telemetry", Success},
		{"[MQTT-4.7.3-1]: empty", "", TopicNameInvalid},
		{"4.7.1.1: a slash alone", "/", Success},
		{"a space", "a b", Success},
		{"dollar (4.7.2)", "$SYS/x", Success},
		{"not ASCII", "Umgebung/Küche/温度", Success},
		{"[MQTT-4.7.0-1]: # alone", "#", TopicNameInvalid},
		{"[MQTT-4.7.0-1]: + in eight bytes", "abcd+fgh", TopicNameInvalid},
		{"[MQTT-4.7.0-1]: # in the tail", "abcdefghij#", TopicNameInvalid},
		{"[MQTT-4.7.0-1]: + after other letters", "Küche/+", TopicNameInvalid},
		{"[MQTT-4.7.3-2]: U+0000", "a\x00b", MalformedPacket},
		{"[MQTT-4.7.3-2]: U+0000 in eight bytes", "abcdefg\x00", MalformedPacket},
		{"[MQTT-4.7.3-2]: U+0000 after other letters", "Küche\x00", MalformedPacket},
		{"[MQTT-4.7.3-3]: 65,535 bytes", strings.Repeat("x", 65535), Success},
		{"[MQTT-4.7.3-3]: 65,536 bytes", strings.Repeat("x", 65536), TopicNameInvalid},
		{"[MQTT-1.5.4-1]: a lone continuation", "a\x80", MalformedPacket},
		{"[MQTT-1.5.4-1]: a letter in more bytes than it needs", "a\xC1\x81", MalformedPacket},
		{"[MQTT-1.5.4-1]: a surrogate", "\xED\xBF\xBF", MalformedPacket},
		{"[MQTT-1.5.4-1]: beyond U+10FFFF", "\xF4\x90\x80\x80", MalformedPacket},
		{"[MQTT-1.5.4-1]: cut", "abcdefgh\xE6\xB8", MalformedPacket},
		{"*", "*", Success},
		{"the neighbours of the wildcards", "\"$*,\"$*,", Success},
	} {
		t.Run(r.name, func(t *testing.T) {
			checkReason(t, CheckTopic(r.topic), r.want)
			checkReason(t, CheckTopic([]byte(r.topic)), r.want)
		})
	}
}

// TestPlainTopic puts every byte at every place of topics of every length up to 40.
func TestPlainTopic(t *testing.T) {
	for n := 1; n <= 40; n++ {
		b := []byte(strings.Repeat("x", n))
		for at := range n {
			for c := range 256 {
				b[at] = byte(c)
				want := c > 0 && c < 0x80 && c != '+' && c != '#'
				if got := plainTopic(b); got != want {
					t.Fatalf("%q: %v", b, got)
				}
				if got := ValidText(b); got != (c > 0 && c < 0x80) {
					t.Fatalf("%q as text: %v", b, got)
				}
			}
			b[at] = 'x'
		}
	}
	if plainTopic(nil) {
		t.Error("the empty topic is plain")
	}
}

func checkReason(t *testing.T, err error, want Reason) {
	t.Helper()
	if want == Success {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != want {
		t.Errorf("%v, want %v", err, want)
	}
}

func TestCheckFilter(t *testing.T) {
	for _, r := range []struct {
		name, filter string
		want         Reason
	}{
		{"a topic", "a/b", Success},
		{"4.7.1.2: all", "#", Success},
		{"4.7.1.2: a subtree", "sport/tennis/#", Success},
		{"[MQTT-4.7.1-1]: # in a word", "sport/tennis#", TopicFilterInvalid},
		{"[MQTT-4.7.1-1]: # not last", "sport/tennis/#/ranking", TopicFilterInvalid},
		{"[MQTT-4.7.1-1]: two", "##", TopicFilterInvalid},
		{"4.7.1.3: one level", "+", Success},
		{"4.7.1.3: with a subtree", "+/tennis/#", Success},
		{"[MQTT-4.7.1-2]: + in a word", "sport+", TopicFilterInvalid},
		{"[MQTT-4.7.1-2]: + before a word", "+sport/a", TopicFilterInvalid},
		{"[MQTT-4.7.1-2]: ++", "++", TopicFilterInvalid},
		{"4.7.1.3: in the middle", "sport/+/player1", Success},
		{"4.7.1.3: after a slash", "/+", Success},
		{"[MQTT-4.7.3-1]: empty", "", TopicFilterInvalid},
		{"[MQTT-4.7.3-2]: U+0000", "a/\x00", MalformedPacket},
		{"[MQTT-4.7.3-3]: too long", strings.Repeat("x", 65536), TopicFilterInvalid},
		{"[MQTT-1.5.4-1]: no UTF-8", "\xFF", MalformedPacket},
		{"4.8.2: shared", "$share/group/a/+/#", Success},
		{"4.8.2: shared, of one byte", "$share/g/a", Success},
		{"4.8.2: a filter that begins with a slash", "$share/g//a", Success},
		{"[MQTT-4.8.2-1]: no name", "$share//a", TopicFilterInvalid},
		{"[MQTT-4.8.2-1]: nothing", "$share/", TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: no filter", "$share/g", TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: an empty filter", "$share/g/", TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: a wildcard", "$share/+/a", TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: all", "$share/#", TopicFilterInvalid},
		{"no share", "$shared/g", Success},
		{"the word alone", "$share", Success},
	} {
		t.Run(r.name, func(t *testing.T) {
			checkReason(t, CheckFilter(r.filter), r.want)
			checkReason(t, CheckFilter([]byte(r.filter)), r.want)
			group, rest, shared := Share(r.filter)
			if want := strings.HasPrefix(r.filter, "$share/") && r.want == Success; shared != want {
				t.Errorf("Share says %v, want %v", shared, want)
			}
			if shared && sharePrefix+group+"/"+rest != r.filter || !shared && (group != "" || rest != r.filter) {
				t.Errorf("Share gives %q and %q", group, rest)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	for _, r := range []struct {
		filter, topic string
		want          bool
	}{
		// 4.7.1.2
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player10", false},
		{"sport/#", "sport", true},
		{"sport/#", "sport/", true},
		{"#", "a", true},
		{"#", "/", true},
		// 4.7.1.3
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/#", "a", true},
		{"+/+/#", "a", false},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/b/d", false},
		// 4.7.2, [MQTT-4.7.2-1]
		{"#", "$SYS/a", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/a", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/#", "a/$SYS", true},
		{"a/+", "a/$SYS", true},
		// 4.7.3: case, leading and trailing slashes
		{"ACCOUNTS", "Accounts", false},
		{"finance", "/finance", false},
		{"finance/", "finance", false},
		{"finance", "finance/", false},
		{"a b", "a b", true},
		{"a", "ab", false},
		{"ab", "a", false},
	} {
		if got := Match(r.filter, r.topic); got != r.want {
			t.Errorf("%q and %q: %v", r.filter, r.topic, got)
		}
		if got := Match(r.filter, []byte(r.topic)); got != r.want {
			t.Errorf("%q and %q as bytes: %v", r.filter, r.topic, got)
		}
		if got := matchSimply(r.filter, r.topic); got != r.want {
			t.Errorf("the reference on %q and %q: %v", r.filter, r.topic, got)
		}
	}
}

// matchSimply is 4.7 level by level.
func matchSimply(filter, topic string) bool {
	f, l := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i >= len(l):
			return false
		case level != "+" && level != l[i]:
			return false
		}
	}
	return len(f) == len(l)
}

// TestMatchRandom compares with the reference on many short filters and topics.
func TestMatchRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	levels := []string{"", "a", "b", "ab", "$", "$a"}
	some := func(choices []string) string {
		n := 1 + r.IntN(4)
		l := make([]string, n)
		for i := range l {
			l[i] = choices[r.IntN(len(choices))]
		}
		return strings.Join(l, "/")
	}
	matched := 0
	for range 100_000 {
		filter, topic := some(append([]string{"+", "+", "#"}, levels...)), some(levels)
		if CheckFilter(filter) != nil || topic == "" {
			continue
		}
		got, want := Match(filter, topic), matchSimply(filter, topic)
		if got != want {
			t.Fatalf("%q and %q: %v", filter, topic, got)
		}
		if got {
			matched++
		}
	}
	if matched < 1000 {
		t.Errorf("only %d matches were tried", matched)
	}
}

func TestCheckPayload(t *testing.T) {
	one := with(func(p *Properties) { p.PayloadFormat = 1; p.Set(PayloadFormat) })
	zero := with(func(p *Properties) { p.Set(PayloadFormat) })
	for _, r := range []struct {
		name    string
		p       *Properties
		payload string
		want    Reason
	}{
		{"no indicator", &Properties{PayloadFormat: 1}, "\xFF", Success},
		{"bytes", zero, "\xFF", Success},
		{"UTF-8", one, "25.8 °C\x00", Success},
		{"3.3.2.3.2: no UTF-8", one, "25.8 \xB0C", PayloadFormatInvalid},
	} {
		t.Run(r.name, func(t *testing.T) { checkReason(t, CheckPayload(r.p, []byte(r.payload)), r.want) })
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range 16 {
		seen[Type(i).String()] = true
	}
	if len(seen) != 16 || PUBLISH.String() != "PUBLISH" || AUTH.String() != "AUTH" {
		t.Errorf("the types are called %v", seen)
	}
	clear(seen)
	for i := range 256 {
		seen[Reason(i).String()] = true
	}
	if len(seen) != 256 || WildcardsForbidden.String() != "wildcard subscriptions not supported" || BadAuthMethod.String() != "bad authentication method" {
		t.Errorf("%d different reasons", len(seen))
	}
	clear(seen)
	for i := range 256 {
		seen[Property(i).String()] = true
		if Property(i).section() == "" {
			t.Errorf("%s has no section", Property(i))
		}
	}
	if len(seen) != 256 {
		t.Errorf("%d different properties", len(seen))
	}
	if V311.String() != "3.1.1" || V5.String() != "5.0" || Version(3).String() != "protocol level 3" {
		t.Errorf("the versions are called %s, %s and %s", V311, V5, Version(3))
	}
}
