package conformance_test

import (
	"slices"
	"strings"

	"signalbox/internal/wire/packet"
)

// topicChecks are about topic names and filters (4.7).
func topicChecks() []check {
	return []check{
		{"matching", "4.7.1-2 4.7.1-3 3.3.2-3 4.7.3-4", "4.7.1-1 4.7.1-2 3.3.2-3 4.7.3-4", matching},
		{"$ topics", "4.7.2-1", "4.7.2-1", func(t trial, v packet.Version) {
			topic := "$" + unique() + "/a"
			c, from, hidden := login(t, v), login(t, v), login(t, v)
			got := c.subscribeAll([]packet.Filter{{Text: []byte("#"), QoS: 0}, {Text: []byte("+/a"), QoS: 0}, {Text: []byte("/#")}}, nil)
			if got[1] >= 0x80 {
				t.Fatalf("SUBACK says % x", got)
			}
			end := unique()
			hidden.send(packet.AppendPublish(nil, v, message(topic, "hidden", 0)), packet.AppendPing(nil, packet.PINGREQ))
			_, err := hidden.try(patience) // the PINGRESP, or the end: a server may keep $ topics to itself
			if isTimeout(err) {
				t.Fatal(err)
			}
			from.publish(end+"/a", "end", 0)
			for {
				p := c.want(packet.PUBLISH)
				if p.Topic[0] == '$' {
					t.Fatalf("a filter that begins with a wildcard matches %q", p.Topic)
				}
				if string(p.Topic) == end+"/a" {
					break
				}
			}
		}},
		{"wrong filters", "4.7.1-2 4.7.1-3 4.7.3-1", "4.7.1-1 4.7.1-2 4.7.3-1", func(t trial, v packet.Version) {
			for _, filter := range []string{"", "a/#/b", "#/a", "a#", "a/b#", "##", "a+", "+a/b", "a/b+/c", "++", "#+"} {
				c := login(t, v)
				c.send(frame(0x82, num(1), c.none(), str(filter), []byte{0}))
				p, err := c.try(patience)
				switch {
				case p == nil && !isTimeout(err) && v == packet.V311:
				case p == nil:
					t.Errorf("%q: %v", filter, err)
				case p.Type == packet.SUBACK && p.Reasons[0] >= 0x80: // told alone
				case p.Type == packet.DISCONNECT && p.Reason >= 0x80:
				default:
					t.Errorf("filter %q was answered with % x", filter, c.raw)
				}
			}
		}},
		{"empty topic name", "4.7.3-1", "4.7.3-1", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x30, str(""), c.none(), []byte("x")))
			c.ended(packet.ProtocolError, packet.TopicNameInvalid, packet.MalformedPacket)
		}},
		{"null character", "4.7.3-2 1.5.3-2", "4.7.3-2 1.5.4-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x30, str("a\x00b"), c.none(), []byte("x")))
			c.ended(packet.MalformedPacket, packet.TopicNameInvalid, packet.ProtocolError)
			c = login(t, v)
			c.send(frame(0x82, num(1), c.none(), str("a\x00b"), []byte{0}))
			c.ended(packet.MalformedPacket, packet.TopicFilterInvalid, packet.ProtocolError)
		}},
		{"longest topic", "4.7.3-3", "4.7.3-3", func(t trial, v packet.Version) {
			topic := unique() + strings.Repeat("/long", 13107)
			topic = (topic + "xxxxxxxx")[:65535]
			c := login(t, v)
			id := c.id16()
			c.send(packet.AppendSubscribe(nil, v, id, []packet.Filter{{Text: []byte(topic), QoS: 1}}, nil))
			p, err := c.try(patience)
			switch {
			case p == nil || err != nil:
				t.Fatalf("the server closed at a filter of 65,535 bytes: %v", err)
			case p.Type == packet.SUBACK && p.Reasons[0] >= 0x80, p.Type == packet.DISCONNECT:
				return // a server may have limits, if it tells
			}
			c.publish(topic, "x", 1)
			c.take(topic, "x", 1)
		}},
	}
}

// matching subscribes to one filter at a time and publishes to all topics.
func matching(t trial, v packet.Version) {
	root := unique()
	topics := []string{"", "/", "/a", "/a/", "/a/b", "/a/b/c", "/a//c", "//", "/A", "/ a", "/ä", "/a\u0308", "/\uFEFF", "/a b/ü/€/𝄞", "/$a"}
	for filter, want := range map[string][]string{
		"":          {""},
		"/a":        {"/a"},
		"/+":        {"/", "/a", "/A", "/ a", "/ä", "/a\u0308", "/\uFEFF", "/$a"},
		"/#":        topics,
		"/a/#":      {"/a", "/a/", "/a/b", "/a/b/c", "/a//c"},
		"/a/+":      {"/a/", "/a/b"},
		"/+/b":      {"/a/b"},
		"/a/+/c":    {"/a/b/c", "/a//c"},
		"/+/+":      {"/a/", "/a/b", "//"},
		"/+/":       {"/a/", "//"},
		"/ä":        {"/ä"},
		"/a\u0308":  {"/a\u0308"},
		"/+/+/#":    {"/a/", "/a/b", "/a/b/c", "/a//c", "//", "/a b/ü/€/𝄞"},
		"/+/ü/+/𝄞":  {"/a b/ü/€/𝄞"},
		"/\uFEFF":   {"/\uFEFF"},
		"/a/b/c/d":  nil,
		"/a/b/c/#":  {"/a/b/c"},
		"/a/b/c/+":  nil,
		"/a/b/c/":   nil,
		"/a/+/c/+":  nil,
		"/a b/#":    {"/a b/ü/€/𝄞"},
		"/a b/+/€":  nil,
		"/a//#":     {"/a/", "/a//c"},
		"/a//c":     {"/a//c"},
		"//+":       {"//"},
		"/$a":       {"/$a"},
		"/+/\uFEFF": nil,
	} {
		c := login(t, v)
		c.subscribe(root+filter, 0)
		c.subscribe(root+"end", 0)
		for _, topic := range topics {
			c.send(packet.AppendPublish(nil, v, message(root+topic, "x", 0)))
		}
		c.publish(root+"end", "end", 0)
		var got []string
		for {
			p := c.want(packet.PUBLISH)
			if string(p.Topic) == root+"end" {
				break
			}
			got = append(got, strings.TrimPrefix(string(p.Topic), root))
		}
		if !slices.Equal(got, want) {
			t.Errorf("filter %q matches %q, want %q", filter, got, want)
		}
	}
}
