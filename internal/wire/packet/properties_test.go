package packet

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// place is a packet, or the will of a CONNECT, that may have properties.
type place struct {
	name string
	// make gives a packet of 5.0 with these properties.
	make func(block []byte) []byte
}

func places() []place {
	return []place{
		{"CONNECT", func(p []byte) []byte { return connect(5, 2, p, text("x")) }},
		{"will", func(p []byte) []byte { return connect(5, 6, 0, text("x"), p, text("w"), text("")) }},
		{"CONNACK", func(p []byte) []byte { return pkt(0x20, 0, 0, p) }},
		{"PUBLISH", func(p []byte) []byte { return pkt(0x30, text("a"), p) }},
		{"PUBACK", func(p []byte) []byte { return pkt(0x40, 0, 1, 0, p) }},
		{"PUBREC", func(p []byte) []byte { return pkt(0x50, 0, 1, 0, p) }},
		{"PUBREL", func(p []byte) []byte { return pkt(0x62, 0, 1, 0, p) }},
		{"PUBCOMP", func(p []byte) []byte { return pkt(0x70, 0, 1, 0, p) }},
		{"SUBSCRIBE", func(p []byte) []byte { return pkt(0x82, 0, 1, p, text("a"), 0) }},
		{"SUBACK", func(p []byte) []byte { return pkt(0x90, 0, 1, p, 0) }},
		{"UNSUBSCRIBE", func(p []byte) []byte { return pkt(0xA2, 0, 1, p, text("a")) }},
		{"UNSUBACK", func(p []byte) []byte { return pkt(0xB0, 0, 1, p, 0) }},
		{"DISCONNECT", func(p []byte) []byte { return pkt(0xE0, 0, p) }},
		{"AUTH", func(p []byte) []byte { return pkt(0xF0, 0x18, p) }},
	}
}

// TestWhere goes through table 2-4 of 5.0: every identifier in every packet.
func TestWhere(t *testing.T) {
	const acks = "PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK"
	table := map[Property]struct{ value, where string }{
		PayloadFormat:          {"\x01", "PUBLISH will"},
		MessageExpiry:          {"\x00\x00\x00\x00", "PUBLISH will"},
		ContentType:            {"\x00\x01c", "PUBLISH will"},
		ResponseTopic:          {"\x00\x01r", "PUBLISH will"},
		CorrelationData:        {"\x00\x01\xFF", "PUBLISH will"},
		SubscriptionID:         {"\x01", "PUBLISH SUBSCRIBE"},
		SessionExpiry:          {"\x00\x00\x00\x00", "CONNECT CONNACK DISCONNECT"},
		AssignedClientID:       {"\x00\x01c", "CONNACK"},
		ServerKeepAlive:        {"\x00\x00", "CONNACK"},
		AuthMethod:             {"\x00\x01m", "CONNECT CONNACK AUTH"},
		AuthData:               {"\x00\x01\xFF", "CONNECT CONNACK AUTH"},
		RequestProblem:         {"\x01", "CONNECT"},
		WillDelay:              {"\x00\x00\x00\x00", "will"},
		RequestResponse:        {"\x01", "CONNECT"},
		ResponseInformation:    {"\x00\x01i", "CONNACK"},
		ServerReference:        {"\x00\x01s", "CONNACK DISCONNECT"},
		ReasonString:           {"\x00\x01r", "CONNACK DISCONNECT AUTH " + acks},
		ReceiveMaximum:         {"\x00\x01", "CONNECT CONNACK"},
		TopicAliasMaximum:      {"\x00\x00", "CONNECT CONNACK"},
		TopicAlias:             {"\x00\x01", "PUBLISH"},
		MaximumQoS:             {"\x01", "CONNACK"},
		RetainAvailable:        {"\x01", "CONNACK"},
		UserProperty:           {"\x00\x01k\x00\x01v", "CONNECT CONNACK PUBLISH will SUBSCRIBE UNSUBSCRIBE DISCONNECT AUTH " + acks},
		MaximumPacketSize:      {"\x00\x00\x00\x01", "CONNECT CONNACK"},
		WildcardAvailable:      {"\x01", "CONNACK"},
		SubscriptionIDsAllowed: {"\x01", "CONNACK"},
		SharedAvailable:        {"\x01", "CONNACK"},
	}
	many := map[string][]Property{"PUBLISH": {UserProperty, SubscriptionID}}
	for id := range 256 {
		entry, known := table[Property(id)]
		value := entry.value
		if !known {
			value = "\x00\x00\x00\x00\x00"
		}
		for _, place := range places() {
			allowed := slices.Contains(strings.Fields(entry.where), place.name)
			need := "" // what else has to be there
			if place.name == "AUTH" && Property(id) != AuthMethod || place.name == "CONNECT" && Property(id) == AuthData {
				need = "\x15\x00\x01m"
			}
			var p Packet
			err := p.Decode(place.make(props(need, id, value)), V5)
			if (err == nil) != allowed {
				t.Errorf("%s in %s: allowed %v, got %v", Property(id), place.name, allowed, err)
			}
			if !allowed {
				if e, ok := errors.AsType[*Error](err); !ok || e.Reason != MalformedPacket {
					t.Errorf("%s in %s: %v, want a malformed packet (2.2.2.2)", Property(id), place.name, err)
				}
				continue
			}
			got := &p.Properties
			if place.name == "will" {
				got = &p.Connect.WillProperties
			}
			if !got.Has(Property(id)) {
				t.Errorf("%s in %s is not there", Property(id), place.name)
			}
			checkSame(t, &p, V5)
			repeats := Property(id) == UserProperty || slices.Contains(many[place.name], Property(id))
			err = p.Decode(place.make(props(need, id, value, id, value)), V5)
			e, _ := errors.AsType[*Error](err)
			if repeats && err != nil || !repeats && (err == nil || e.Reason != ProtocolError) {
				t.Errorf("%s twice in %s: %v", Property(id), place.name, err)
			}
			for cut := range len(value) {
				if err := p.Decode(place.make(props(need, id, value[:cut])), V5); err == nil {
					t.Errorf("%s in %s, cut to %d bytes, is accepted", Property(id), place.name, cut)
				}
			}
		}
	}
}

// TestReasons goes through the tables of reason codes: every code in every packet.
func TestReasons(t *testing.T) {
	const pub = "00 10 80 83 87 90 91 97 99"
	for _, r := range []struct {
		name  string
		v     Version
		make  func(r int) []byte
		codes string
	}{
		{"3.2.2.3 of 3.1.1: CONNACK", V311, func(r int) []byte { return raw(0x20, 2, 0, r) }, "00 01 02 03 04 05"},
		{"[MQTT-3.2.2-8]: CONNACK", V5, func(r int) []byte { return raw(0x20, 3, 0, r, 0) }, "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f"},
		{"[MQTT-3.4.2-1]: PUBACK", V5, func(r int) []byte { return raw(0x40, 3, 0, 1, r) }, pub},
		{"[MQTT-3.5.2-1]: PUBREC", V5, func(r int) []byte { return raw(0x50, 3, 0, 1, r) }, pub},
		{"[MQTT-3.6.2-1]: PUBREL", V5, func(r int) []byte { return raw(0x62, 3, 0, 1, r) }, "00 92"},
		{"[MQTT-3.7.2-1]: PUBCOMP", V5, func(r int) []byte { return raw(0x70, 3, 0, 1, r) }, "00 92"},
		{"[MQTT-3.9.3-2] of 3.1.1: SUBACK", V311, func(r int) []byte { return raw(0x90, 3, 0, 1, r) }, "00 01 02 80"},
		{"[MQTT-3.9.3-2]: SUBACK", V5, func(r int) []byte { return raw(0x90, 4, 0, 1, 0, r) }, "00 01 02 80 83 87 8f 91 97 9e a1 a2"},
		{"[MQTT-3.11.3-2]: UNSUBACK", V5, func(r int) []byte { return raw(0xB0, 4, 0, 1, 0, r) }, "00 11 80 83 87 8f 91"},
		{
			"[MQTT-3.14.2-1]: DISCONNECT", V5, func(r int) []byte { return raw(0xE0, 1, r) },
			"00 04 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2",
		},
		{"[MQTT-3.15.2-1]: AUTH", V5, func(r int) []byte { return pkt(0xF0, r, props(AuthMethod, text("m"))) }, "00 18 19"},
	} {
		t.Run(r.name, func(t *testing.T) {
			for code := range 256 {
				allowed := slices.Contains(strings.Fields(r.codes), string([]byte{"0123456789abcdef"[code>>4], "0123456789abcdef"[code&15]}))
				var p Packet
				if err := p.Decode(r.make(code), r.v); (err == nil) != allowed {
					t.Errorf("%#x (%s): %v, want allowed %v", code, Reason(code), err, allowed)
				}
			}
		})
	}
}

// TestScattered: user properties that are not next to each other are all there, in order.
func TestScattered(t *testing.T) {
	for _, r := range []struct {
		name  string
		block []byte
		want  string
	}{
		{"none", props(MessageExpiry, 0, 0, 0, 1), ""},
		{"together", props(UserProperty, text("a"), text("1"), UserProperty, text("b"), text("2")), "a=1 b=2 "},
		{"apart", props(UserProperty, text("a"), text("1"), MessageExpiry, 0, 0, 0, 1, UserProperty, text("b"), text("2"), UserProperty, text("c"), text("3")), "a=1 b=2 c=3 "},
		{
			"apart again", props(UserProperty, text("a"), text("1"), UserProperty, text("a"), text("1"), MessageExpiry, 0, 0, 0, 1,
				UserProperty, text("b"), text("2"), PayloadFormat, 1, UserProperty, text("c"), text("3")), "a=1 a=1 b=2 c=3 ",
		},
		{"at the end", props(PayloadFormat, 1, UserProperty, text(""), text("")), "= "},
	} {
		t.Run(r.name, func(t *testing.T) {
			b := pkt(0x30, text("a"), r.block, "payload")
			was := bytes.Clone(b)
			var p Packet
			if err := p.Decode(b, V5); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			p.Properties.EachUser(func(key, value []byte) bool {
				got.WriteString(string(key) + "=" + string(value) + " ")
				return true
			})
			if got.String() != r.want {
				t.Errorf("%q, want %q", got.String(), r.want)
			}
			p.Properties.AddUser("more", "and more") // must not write over what was decoded
			if !bytes.Equal(b, was) {
				t.Error("the input has changed")
			}
			if string(p.Payload) != "payload" {
				t.Errorf("payload %q", p.Payload)
			}
			checkSame(t, &p, V5)
		})
	}
	var p Packet
	if err := p.Decode(pkt(0x30, text("a"), props(UserProperty, text("a"), text("1"), UserProperty, text("b"), text("2"))), V5); err != nil {
		t.Fatal(err)
	}
	n := 0
	p.Properties.EachUser(func(_, _ []byte) bool { n++; return false })
	if n != 1 {
		t.Errorf("EachUser went on after false: %d calls", n)
	}
}

// TestForwarded: what a server passes on comes back as it was, and nothing else.
func TestForwarded(t *testing.T) {
	if b := AppendForwarded([]byte("x"), nil); string(b) != "x" {
		t.Errorf("nil gives % x", b)
	}
	if b := AppendForwarded([]byte("x"), &Properties{}); string(b) != "x" {
		t.Errorf("none gives % x", b)
	}
	p := with(func(p *Properties) {
		p.PayloadFormat, p.MessageExpiry, p.TopicAlias, p.SubscriptionID = 1, 9, 3, 7
		p.ContentType, p.ResponseTopic, p.CorrelationData = []byte("ct"), []byte("r/t"), []byte{0}
		for _, id := range []Property{PayloadFormat, MessageExpiry, TopicAlias, SubscriptionID, ContentType, ResponseTopic, CorrelationData} {
			p.Set(id)
		}
		p.AddUser("k", "v")
		p.AddUser("k", "w")
	})
	want := raw(PayloadFormat, 1, ContentType, text("ct"), ResponseTopic, text("r/t"), CorrelationData, text("\x00"),
		UserProperty, text("k"), text("v"), UserProperty, text("k"), text("w"))
	b := AppendForwarded(nil, p)
	if !bytes.Equal(b, want) {
		t.Fatalf("% x, want\n% x", b, want)
	}
	var q Properties
	if err := q.DecodeForwarded(b); err != nil {
		t.Fatal(err)
	}
	if q.Has(MessageExpiry) || q.Has(TopicAlias) || q.Has(SubscriptionID) {
		t.Error("what belongs to one connection was passed on")
	}
	if again := AppendForwarded(nil, &q); !bytes.Equal(again, want) {
		t.Errorf("% x, want\n% x", again, want)
	}
	if err := q.DecodeForwarded(nil); err != nil || !q.None() {
		t.Errorf("nothing gives %v, none %v", err, q.None())
	}
	if err := q.DecodeForwarded(raw(TopicAlias, 0, 1)); err == nil {
		t.Error("a topic alias is accepted")
	}
}

// TestTooLong: of a packet that does not fit the format nothing is appended.
func TestTooLong(t *testing.T) {
	big := make([]byte, 65536)
	why := with(func(p *Properties) { p.ReasonString = big; p.Set(ReasonString) })
	number := with(func(p *Properties) { p.SubscriptionID = MaxRemaining + 1; p.Set(SubscriptionID) })
	ct := Packet{Topic: []byte("a"), Properties: *with(func(p *Properties) { p.ContentType = big; p.Set(ContentType) })}
	huge := Packet{Topic: []byte("a"), Payload: make([]byte, MaxRemaining-2)}
	long := make([]Filter, MaxRemaining/65536+2)
	for i := range long {
		long[i].Text = big[1:]
	}
	more := with(func(p *Properties) {
		p.SubscriptionID, p.MoreSubscriptionIDs = 1, []uint32{MaxRemaining + 1}
		p.Set(SubscriptionID)
	})
	// user properties are written as they are: too many of them do not fit either
	lot := with(func(p *Properties) { p.User = huge.Payload; p.Set(UserProperty) })
	fits := Packet{Topic: []byte("a"), Payload: huge.Payload[1:]}
	for name, b := range map[string][]byte{
		"CONNECT":             AppendConnect(nil, &Connect{Version: V311, ClientID: big}, nil),
		"CONNECT, will":       AppendConnect(nil, &Connect{Version: V5, HasWill: true, WillProperties: ct.Properties}, nil),
		"CONNACK":             AppendConnack(nil, V5, false, Success, why),
		"PUBLISH, topic":      AppendPublish(nil, V311, &Packet{Topic: big}),
		"PUBLISH, properties": AppendPublish(nil, V5, &ct),
		"PUBLISH, payload":    AppendPublish(nil, V311, &huge),
		"PUBLISH, number":     AppendPublish(nil, V5, &Packet{Topic: []byte("a"), Properties: *number}),
		"PUBACK":              AppendAck(nil, V5, PUBACK, 1, Success, why),
		"SUBSCRIBE":           AppendSubscribe(nil, V5, 1, []Filter{{Text: big}}, nil),
		"SUBSCRIBE, number":   AppendSubscribe(nil, V5, 1, []Filter{{Text: []byte("a")}}, number),
		"SUBSCRIBE, long":     AppendSubscribe(nil, V311, 1, long, nil),
		"UNSUBSCRIBE, long":   AppendUnsubscribe(nil, V311, 1, long, nil),
		"PUBLISH, numbers":    AppendPublish(nil, V5, &Packet{Topic: []byte("a"), Properties: *more}),
		"CONNECT, users":      AppendConnect(nil, &Connect{Version: V5}, lot),
		"CONNACK, users":      AppendConnack(nil, V5, false, Success, lot),
		"PUBLISH, users":      AppendPublish(nil, V5, &Packet{Topic: []byte("a"), Properties: *lot}),
		"PUBACK, users":       AppendAck(nil, V5, PUBACK, 1, Success, lot),
		"UNSUBACK, users":     AppendUnsuback(nil, V5, 1, []byte{0}, lot),
		"AUTH, users":         AppendAuth(nil, Success, lot),
		"SUBACK":              AppendSuback(nil, V5, 1, []byte{0}, why),
		"UNSUBSCRIBE":         AppendUnsubscribe(nil, V311, 1, []Filter{{Text: big}}, nil),
		"UNSUBACK":            AppendUnsuback(nil, V5, 1, []byte{0}, why),
		"DISCONNECT":          AppendDisconnect(nil, V5, Success, why),
		"AUTH":                AppendAuth(nil, Success, why),
		"forwarded":           AppendForwarded(nil, &ct.Properties),
	} {
		if len(b) != 0 {
			t.Errorf("%s: %d bytes", name, len(b))
		}
	}
	if n := PublishSize(V311, &huge); n != 0 {
		t.Errorf("PublishSize of a PUBLISH that is too long: %d", n)
	}
	if n := PublishSize(V311, &fits); n != MaxRemaining+5 {
		t.Errorf("PublishSize of the longest PUBLISH: %d", n)
	}
	var p Properties
	p.AddUser(string(big), "")
	if !p.None() {
		t.Error("a user property that is too long was added")
	}
}

// TestLeftOut: what a packet may not have is not written.
func TestLeftOut(t *testing.T) {
	p := with(func(p *Properties) {
		p.TopicAlias, p.ReasonString = 1, []byte("x")
		p.Set(TopicAlias)
		p.Set(ReasonString)
	})
	if b, want := AppendAck(nil, V5, PUBACK, 1, 0, p), pkt(0x40, 0, 1, 0, props(ReasonString, text("x"))); !bytes.Equal(b, want) {
		t.Errorf("PUBACK % x, want % x", b, want)
	}
	if b, want := AppendPublish(nil, V5, &Packet{Topic: []byte("a"), Properties: *p}), pkt(0x30, text("a"), props(TopicAlias, 0, 1)); !bytes.Equal(b, want) {
		t.Errorf("PUBLISH % x, want % x", b, want)
	}
	p.Unset(ReasonString)
	if b, want := AppendAck(nil, V5, PUBACK, 1, 0, p), raw(0x40, 2, 0, 1); !bytes.Equal(b, want) {
		t.Errorf("PUBACK % x, want % x", b, want)
	}
	if b, want := AppendDisconnect(nil, V5, 0, p), raw(0xE0, 0); !bytes.Equal(b, want) {
		t.Errorf("DISCONNECT % x, want % x", b, want)
	}
}

// TestReturnCodes: a 3.1.1 CONNACK has a return code that 3.1.1 knows, whatever the reason.
func TestReturnCodes(t *testing.T) {
	want := map[Reason]byte{
		UnsupportedVersion: 1, ClientIDNotValid: 2, ServerUnavailable: 3, ServerBusy: 3, QuotaExceeded: 3, BadUserOrPassword: 4,
		BadAuthMethod: 4, NotAuthorized: 5, Banned: 5, RefusedClientID: 2, RefusedNotAuthorized: 5, Success: 0,
	}
	for r, code := range want {
		if b := AppendConnack(nil, V311, false, r, nil); b[3] != code {
			t.Errorf("%v: return code %d, want %d", r, b[3], code)
		}
	}
	for r := 0x80; r < 0x100; r++ {
		var p Packet
		if err := p.Decode(AppendConnack(nil, V311, false, Reason(r), nil), V311); err != nil {
			t.Errorf("%v: %v", Reason(r), err)
		}
	}
}
