package forward

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"signalbox"
)

func TestCheck(t *testing.T) {
	with := func(to string, change func(*Spec)) Spec {
		s := Spec{Name: "to", To: to}
		if change != nil {
			change(&s)
		}
		return s
	}
	for _, test := range []struct {
		name string
		spec Spec
		want string // part of the error; empty: none
	}{
		{"tcp", with("tcp://host:9000", nil), ""},
		{"tcp, IPv6", with("tcp://[::1]:9000", func(s *Spec) { s.Ack = true }), ""},
		{"listening everywhere", with("tcp-listen://:9000", func(s *Spec) { s.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }), ""},
		{"udp", with("udp://host:9000", func(s *Spec) { s.Sequence = true }), ""},
		{"websocket", with("wss://host/path?x=1", func(s *Spec) { s.Secrets.Bearer = "abc"; s.TLS.CA = "/ca.pem" }), ""},
		{"webhook", with("https://host/hook", func(s *Spec) {
			s.Parallel, s.Attempts, s.Secrets.HMAC, s.Username, s.Secrets.Password = 64, -1, "key", "me", "secret"
		}), ""},
		{"mqtt", with("mqtt://host", func(s *Spec) { s.Topic, s.QoS, s.Retain = "site/{device}/{kind}", 2, true }), ""},
		{"template", with("tcp://host:1", func(s *Spec) { s.Format, s.Template = "template", "{device} {field.temp}" }), ""},
		{"websocket, HTTP Basic", with("ws://host/in", func(s *Spec) { s.Username, s.Secrets.Password = "me", "secret" }), ""},
		{"websocket, password alone", with("ws://host/in", func(s *Spec) { s.Secrets.Password = "secret" }), "HTTP Basic needs both"},
		{"websocket, two credentials", with("wss://host", func(s *Spec) { s.Username, s.Secrets.Bearer = "me", "abc" }), "only one Authorization"},
		{"username for tcp", with("tcp://h:1", func(s *Spec) { s.Username = "me" }), "is an option of mqtt, mqtts, ws, wss, http, https"},
		{"viewer", with("ws://host", func(s *Spec) { s.Format, s.Field = "viewer", "temp" }), ""},
		{"all that is chosen", with("tcp://host:1", func(s *Spec) {
			s.Devices, s.Types, s.Kinds, s.Fields = []string{"a"}, []string{"box"}, []string{"telemetry", "presence", "command", "alert"}, []string{"a.b"}
		}), ""},

		{"no name", Spec{To: "tcp://host:1"}, "forwarder name is empty"},
		{"bad name", Spec{Name: "a/b", To: "tcp://host:1"}, "allowed are letters"},
		{"no target", with("", nil), "there is no target"},
		{"unknown scheme", with("ftp://host", nil), `scheme "ftp"; allowed are tcp://`},
		{"no scheme", with("host:9000", nil), "allowed are tcp://"},
		{"user in URL", with("mqtt://me:pw@host", nil), "username and password of their own"},
		{"fragment", with("https://host/#x", nil), "fragment"},
		{"empty fragment", with("https://host/#", nil), "fragment"},
		{"no host", with("https:///x", nil), "names no host"},
		{"no port", with("tcp://host", nil), "names no port"},
		{"colon without port", with("mqtt://host:", nil), "names no port"},
		{"port 0", with("tcp://host:0", nil), "1 to 65535"},
		{"large port", with("udp://host:65536", nil), "1 to 65535"},
		{"path for tcp", with("tcp://host:1/x", nil), "more than host and port"},
		{"query for mqtt", with("mqtt://host?x=1", nil), "more than host and port"},
		{"blank", with("https://host/a b", nil), "blanks"},
		{"long", with("https://host/"+strings.Repeat("x", maxURL), nil), "at most 2048"},
		{"unreadable", with("https://[::1/", nil), "cannot be read"},

		{"ack for udp", with("udp://h:1", func(s *Spec) { s.Ack = true }), "ack is an option of tcp, tcp-listen; the target is udp"},
		{"allow for tcp", with("tcp://h:1", func(s *Spec) { s.Allow = []netip.Prefix{netip.MustParsePrefix("::/0")} }), "allow is an option of tcp-listen"},
		{"topic for http", with("http://h", func(s *Spec) { s.Topic = "x" }), "topic is an option of mqtt"},
		{"parallel for mqtt", with("mqtt://h", func(s *Spec) { s.Parallel = 2 }), "parallel is an option of http"},
		{"secret for ws", with("ws://h", func(s *Spec) { s.Secrets.HMAC = "x" }), "is an option of http"},
		{"password for tcp", with("tcp://h:1", func(s *Spec) { s.Secrets.Password = "x" }), "password is an option of mqtt"},
		{"tls for http", with("http://h", func(s *Spec) { s.TLS.CA = "x" }), "tls is an option of wss"},
		{"sequence for tcp", with("tcp://h:1", func(s *Spec) { s.Sequence = true }), "sequence is an option of udp"},
		{"sequence in a template", with("udp://h:1", func(s *Spec) { s.Sequence, s.Format, s.Template = true, "template", "x" }), "sequence needs the format json"},

		{"kind", with("tcp://h:1", func(s *Spec) { s.Kinds = []string{"alarms"} }), "allowed are telemetry, presence, command, alert"},
		{"device twice", with("tcp://h:1", func(s *Spec) { s.Devices = []string{"a", "a"} }), "twice"},
		{"bad device", with("tcp://h:1", func(s *Spec) { s.Devices = []string{"a b"} }), "device name"},
		{"empty field", with("tcp://h:1", func(s *Spec) { s.Fields = []string{""} }), "field is empty; allowed are names and dotted paths"},
		{"field with an empty part", with("tcp://h:1", func(s *Spec) { s.Fields = []string{"a", "a..b"} }), `the field "a..b" has an empty part; allowed are names and dotted paths`},
		{"long field", with("tcp://h:1", func(s *Spec) { s.Fields = []string{strings.Repeat("x", maxPath+1)} }), "257 bytes; at most 256 are allowed"},
		{"field that is no text", with("tcp://h:1", func(s *Spec) { s.Fields = []string{"a\xff"} }), "not valid UTF-8"},
		{"viewer's field with an empty part", with("tcp://h:1", func(s *Spec) { s.Format, s.Field = "viewer", "a." }), `field "a." has an empty part`},
		{"template's field with an empty part", with("tcp://h:1", func(s *Spec) { s.Format, s.Template = "template", "{field..a.json}" }), `field ".a" has an empty part`},
		{"topic's field with an empty part", with("mqtt://h", func(s *Spec) { s.Topic = "a/{field.a..b}" }), `field "a..b" has an empty part`},
		{"format", with("tcp://h:1", func(s *Spec) { s.Format = "xml" }), "allowed are json, template, viewer"},
		{"template without its format", with("tcp://h:1", func(s *Spec) { s.Template = "x" }), "needs the format template"},
		{"no template", with("tcp://h:1", func(s *Spec) { s.Format = "template" }), "needs a template, such as {device}"},
		{"line break over tcp", with("tcp://h:1", func(s *Spec) { s.Format, s.Template = "template", "a\nb" }), "line break ends a message"},
		{"viewer without field", with("tcp://h:1", func(s *Spec) { s.Format = "viewer" }), "shows one field"},
		{"field without viewer", with("tcp://h:1", func(s *Spec) { s.Field = "x" }), "option of the format viewer"},
		{"viewer of presence", with("tcp://h:1", func(s *Spec) { s.Format, s.Field, s.Kinds = "viewer", "x", []string{"presence"} }), "one field of telemetry"},
		{"ack in a viewer", with("tcp://h:1", func(s *Spec) { s.Format, s.Field, s.Ack = "viewer", "x", true }), "cursor"},
		{"ack without cursor", with("tcp://h:1", func(s *Spec) { s.Format, s.Template, s.Ack = "template", "x", true }), "needs {cursor} or {position}"},
		{"type of no template", with("http://h", func(s *Spec) { s.ContentType = "text/x" }), "content_type"},

		{"short timeout", with("tcp://h:1", func(s *Spec) { s.Timeout = time.Millisecond }), "timeout is 1ms; allowed are 100ms to 10m"},
		{"negative backoff", with("tcp://h:1", func(s *Spec) { s.Backoff.Min = -1 }), "backoff.min"},
		{"backoff upside down", with("tcp://h:1", func(s *Spec) { s.Backoff = Backoff{time.Minute, time.Second} }), "backoff.max is 1s; allowed are backoff.min to 24h"},
		{"negative queue", with("tcp://h:1", func(s *Spec) { s.Queue.MaxEntries = -1 }), "queue.max_entries"},
		{"parallel", with("http://h", func(s *Spec) { s.Parallel = 65 }), "allowed are 1 to 64"},
		{"attempts", with("http://h", func(s *Spec) { s.Attempts = -2 }), "-1 for no end"},

		{"no topic", with("mqtt://h", nil), "mqtt needs a topic, such as hub/{device}"},
		{"topic with wildcard", with("mqtt://h", func(s *Spec) { s.Topic = "a/#" }), "«#»"},
		{"topic of the broker", with("mqtt://h", func(s *Spec) { s.Topic = "$SYS/x" }), "broker's own"},
		{"topic with an object", with("mqtt://h", func(s *Spec) { s.Topic = "a/{object}" }), "{object} is no placeholder here"},
		{"qos", with("mqtt://h", func(s *Spec) { s.Topic, s.QoS = "a", 3 }), "allowed are 0, 1, 2"},
		{"version", with("mqtt://h", func(s *Spec) { s.Topic, s.Version = "a", "3.1" }), "5.0 and 3.1.1"},
		{"header in bearer", with("http://h", func(s *Spec) { s.Secrets.Bearer = "a\r\nb: c" }), "printable ASCII"},
		{"two authorizations", with("http://h", func(s *Spec) { s.Secrets.Bearer, s.Username = "a", "b" }), "only one Authorization"},
		{"half a certificate", with("https://h", func(s *Spec) { s.TLS.Cert = "x" }), "belong together"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.spec.Check()
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want == "":
			case err == nil || !strings.Contains(err.Error(), test.want):
				t.Fatalf("got %v, want «%s»", err, test.want)
			case signalbox.KindOf(err) != signalbox.KindInvalid:
				t.Fatalf("the kind of «%v» is %d", err, signalbox.KindOf(err))
			}
		})
	}
}

func TestTemplateErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"{devise}", "{devise} is no placeholder here; allowed are {device}"},
		{"{field.}", "is no placeholder"},
		{"{device", "not closed"},
		{"device}", "without its «{»"},
		{"{}", "{} is no placeholder"},
		{"", "needs 1 to"},
	} {
		if _, err := CompileTemplate(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q gives %v, want «%s»", test.text, err, test.want)
		}
	}
}
