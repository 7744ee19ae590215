package broker_test

import (
	"strings"
	"testing"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

// terse asks for no problem information (5.0, 3.1.2.11.7).
func terse(h *broker.Hello) {
	h.Properties.Set(packet.RequestProblem)
	h.Properties.RequestProblem = 0
}

// problems asks for it in so many words.
func problems(h *broker.Hello) {
	h.Properties.Set(packet.RequestProblem)
	h.Properties.RequestProblem = 1
}

// TestReasonStrings: each answer that says that something failed has words, for clients that want
// them and take a packet of that size.
func TestReasonStrings(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	deep := packet.Filter{Text: []byte(strings.Repeat("a/", 200))}
	answers := map[string]struct {
		fail func(*client)
		typ  packet.Type
	}{
		"PUBACK":  {func(c *client) { c.publish(t, "$SYS/x", "", 1, 1) }, packet.PUBACK},
		"PUBREC":  {func(c *client) { c.publish(t, "$SYS/x", "", 2, 1) }, packet.PUBREC},
		"PUBREL":  {func(c *client) { c.ack(packet.PUBREC, 7) }, packet.PUBREL},
		"PUBCOMP": {func(c *client) { c.ack(packet.PUBREL, 7) }, packet.PUBCOMP},
		"SUBACK": {func(c *client) {
			c.Subscribe(&packet.Packet{Type: packet.SUBSCRIBE, ID: 1, Filters: []packet.Filter{deep}}, nil)
		}, packet.SUBACK},
	}
	for name, a := range answers {
		for what, c := range map[string]struct {
			wishes []wish
			words  bool
		}{
			"present":         {nil, true},
			"wanted":          {[]wish{problems}, true},
			"unwanted":        {[]wish{terse}, false},
			"too large":       {[]wish{largest(24)}, false},
			"large enough":    {[]wish{largest(256)}, true},
			"there is no 5.0": {[]wish{v311}, false},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				client := h.connect(t, "c", c.wishes...)
				a.fail(client)
				g := client.want(t, a.typ)
				if has := g.Properties.Has(packet.ReasonString); has != c.words || has != (len(g.Properties.ReasonString) > 0) {
					t.Errorf("it has a reason string: %v %q", has, g.Properties.ReasonString)
				}
				failed := g.Reason >= packet.UnspecifiedError || a.typ == packet.SUBACK && g.Reasons[0] >= byte(packet.UnspecifiedError)
				if client.version == packet.V5 && !failed {
					t.Error("it does not say that something failed")
				}
			})
		}
	}
}

// TestReasonStringsOfSuccess: what succeeded has no words and no properties.
func TestReasonStringsOfSuccess(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c")
	c.subscribe(t, filter("other", 1))
	for qos, typ := range []packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
		if qos > 0 {
			c.publish(t, "x", "y", uint8(qos), uint16(qos)) //nolint:gosec // 1 and 2
			if g := c.want(t, typ); !g.Properties.None() {
				t.Errorf("%v has the properties %+v", typ, g.Properties)
			}
		}
	}
	c.ack(packet.PUBREL, 2)
	if g := c.want(t, packet.PUBCOMP); !g.Properties.None() {
		t.Errorf("PUBCOMP has the properties %+v", g.Properties)
	}
}

// TestReasonStringsAreShort: words of any length and kind make a packet that small boards take.
func TestReasonStringsAreShort(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c")
	for name, words := range map[string]string{
		"long": strings.Repeat("ж", 200), "odd": "x" + strings.Repeat("ж", 200), "not UTF-8": "\xff\xfe", "with U+0000": "a\x00b", "none": "",
	} {
		c.Refuse(&packet.Packet{Type: packet.PUBLISH, QoS: 1, ID: 3}, packet.NotAuthorized, words)
		g := c.want(t, packet.PUBACK) // which decodes it
		if text := g.Properties.ReasonString; len(text) > 160 || !strings.HasPrefix(words, string(text)) {
			t.Errorf("%s: the reason string is %q", name, text)
		}
		if long := len(words) > 10; long != g.Properties.Has(packet.ReasonString) {
			t.Errorf("%s: has a reason string: %v", name, !long)
		}
	}
}
