package packet

import (
	"encoding/binary"
	"strings"
)

// sharePrefix begins the filter of a shared subscription (4.8.2).
const sharePrefix = "$share/"

// plainTopic reports whether b is a topic name of plain ASCII, which most are; false means
// that checkTopic has to look.
func plainTopic(b []byte) bool {
	if len(b) < 8 {
		for _, c := range b {
			if c-1 >= 0x7F || c|0x08 == '+' {
				return false
			}
		}
		return len(b) > 0
	}
	last := binary.LittleEndian.Uint64(b[len(b)-8:]) // overlaps what the loop has seen
	for ; len(b) > 8; b = b[8:] {
		if !plainWord(binary.LittleEndian.Uint64(b)) {
			return false
		}
	}
	return plainWord(last)
}

// plainWord is ascii that also refuses '+' (0x2B) and '#' (0x23), which differ in bit 3 alone.
func plainWord(x uint64) bool {
	wild := (x | 0x08*ones) ^ '+'*ones
	return (x|(x-ones)|(wild-ones))&highs == 0
}

// CheckTopic says what is wrong with a topic name (4.7): it has 1 to 65,535 bytes of UTF-8
// without U+0000 ([MQTT-4.7.3-1], -2, -3) and no wildcard [MQTT-4.7.0-1]. nil: nothing.
func CheckTopic[T string | []byte](topic T) error {
	return checkTopic([]byte(topic), "topic name")
}

func checkTopic(b []byte, what string) error {
	switch {
	case len(b) == 0:
		return fault(TopicNameInvalid, "MQTT-4.7.3-1", "the %s is empty; it must have at least one character", what)
	case len(b) > 65535:
		return fault(TopicNameInvalid, "MQTT-4.7.3-3", "the %s has %d bytes; 65,535 are allowed", what, len(b))
	case plainTopic(b):
		return nil
	case !ValidText(b):
		return textError(what)
	}
	for _, c := range b {
		if c == '+' || c == '#' {
			return fault(TopicNameInvalid, "MQTT-4.7.0-1", "the %s %q has a wildcard; only filters may", what, clip(b))
		}
	}
	return nil
}

// CheckFilter says what is wrong with a topic filter (4.7, 4.8): it has 1 to 65,535 bytes of
// UTF-8 without U+0000; `+` stands alone in its level [MQTT-4.7.1-2]; `#` stands alone in the
// last one [MQTT-4.7.1-1]; after `$share/` come a name and a filter. nil: nothing.
func CheckFilter[T string | []byte](filter T) error {
	b := []byte(filter)
	if err := checkFilter(b); err != nil {
		return err
	}
	return checkShare(b)
}

// checkFilter is CheckFilter without shared subscriptions, which 3.1.1 does not have.
func checkFilter(b []byte) error {
	switch {
	case len(b) == 0:
		return fault(TopicFilterInvalid, "MQTT-4.7.3-1", "a topic filter is empty; it must have at least one character")
	case len(b) > 65535:
		return fault(TopicFilterInvalid, "MQTT-4.7.3-3", "a topic filter has %d bytes; 65,535 are allowed", len(b))
	case !ValidText(b):
		return textError("topic filter")
	}
	for i, c := range b {
		if c != '+' && c != '#' {
			continue
		}
		inWord := i > 0 && b[i-1] != '/' // not the first of its level
		switch {
		case c == '#' && (inWord || i < len(b)-1):
			return fault(TopicFilterInvalid, "MQTT-4.7.1-1", "the topic filter %q has a # that is not the whole last level", clip(b))
		case c == '+' && (inWord || i < len(b)-1 && b[i+1] != '/'):
			return fault(TopicFilterInvalid, "MQTT-4.7.1-2", "the topic filter %q has a + that is not a whole level", clip(b))
		}
	}
	return nil
}

// checkShare looks at the shape of a shared subscription's filter (4.8.2).
func checkShare(b []byte) error {
	if len(b) < len(sharePrefix) || string(b[:len(sharePrefix)]) != sharePrefix {
		return nil
	}
	rest := b[len(sharePrefix):]
	for i, c := range rest {
		switch {
		case c == '+' || c == '#':
			return fault(TopicFilterInvalid, "MQTT-4.8.2-2", "the share name of %q has a wildcard", clip(b))
		case c == '/' && i == 0:
			return fault(TopicFilterInvalid, "MQTT-4.8.2-1", "the share name of %q is empty", clip(b))
		case c == '/' && i == len(rest)-1:
			return fault(TopicFilterInvalid, "MQTT-4.8.2-2", "after the share name of %q there is no topic filter", clip(b))
		case c == '/':
			return nil
		}
	}
	return fault(TopicFilterInvalid, "MQTT-4.8.2-2", "%q has no share name with a topic filter after it, as $share/name/filter", clip(b))
}

// Share takes the filter of a shared subscription apart, `$share/group/rest` (4.8.2). Of any
// other filter, and of one that begins so and is not of that shape, rest is all of it and
// shared is false.
func Share(filter string) (group, rest string, shared bool) {
	after, ok := strings.CutPrefix(filter, sharePrefix)
	if !ok {
		return "", filter, false
	}
	group, rest, ok = strings.Cut(after, "/")
	if !ok || group == "" || rest == "" || strings.ContainsAny(group, "+#") {
		return "", filter, false
	}
	return group, rest, true
}

// Match reports whether a topic name matches a filter (4.7). Both must be valid, and of a
// shared subscription filter is the rest that Share gives. A filter that begins with a
// wildcard matches no topic that begins with `$` [MQTT-4.7.2-1].
func Match[T string | []byte](filter string, topic T) bool {
	if len(topic) > 0 && topic[0] == '$' && filter != "" && (filter[0] == '#' || filter[0] == '+') {
		return false
	}
	t := 0
	for f := 0; f < len(filter); f++ {
		switch c := filter[f]; {
		case c == '+':
			for t < len(topic) && topic[t] != '/' {
				t++
			}
		case c == '#':
			return true
		case t == len(topic):
			return filter[f:] == "/#" // the parent of a level that # stands for (4.7.1.2)
		case c != topic[t]:
			return false
		default:
			t++
		}
	}
	return t == len(topic)
}
