package mapped_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/mapped"
)

func TestTemplate(t *testing.T) {
	text := func(s string) *string { return &s }
	tests := []struct {
		name           string
		topic, payload string
		command        string
		value          *string
		wantTopic      string
		wantPayload    string
		err            string
	}{
		{"tasmota", "cmnd/{device}/{command}", "{value}", "Power1", text("ON"), "cmnd/lamp/Power1", "ON", ""},
		{"without a value", "cmnd/{device}/{command}", "{value}", "Status", nil, "cmnd/lamp/Status", "", ""},
		{"parts of a name", "homie/{device}/{command.1}/{command.2}/set", "{value}", "light.power", text("true"), "homie/lamp/light/power/set", "true", ""},
		{"parts in another order", "{command.2}/{command.1}", "", "a.b", nil, "b/a", "", ""},
		{"too few parts", "{command.1}/{command.2}", "", "light", nil, "", "", "1 parts"},
		{"too many parts", "{command.1}/{command.2}", "", "a.b.c", nil, "", "", "3 parts"},
		{"empty part", "{command.1}/{command.2}", "", "a.", nil, "", "", "not empty"},
		{"wildcards", "zigbee/{1}/{2}/set", `{"{command}":{value.json}}`, "state", text("ON"), "zigbee/one/two/set", `{"state":"ON"}`, ""},
		{"JSON of a number", "x", `{"id":"{id}","v":{value.json}}`, "a", text("15.0"), "x", `{"id":"0123","v":15.0}`, ""},
		{"JSON of a text with quotes", "x", `{value.json}`, "a", text("say \"ho\"\n"), "x", `"say \"ho\"\n"`, ""},
		{"JSON of nothing", "x", `{value.json}`, "a", nil, "x", `null`, ""},
		{"braces that are text", "x", `{"a":{},"b":{ "c":1},"{":"{value"}`, "a", nil, "x", `{"a":{},"b":{ "c":1},"{":"{value"}`, ""},
		{"slash in a command", "cmnd/{device}/{command}", "", "a/b", nil, "", "", `may not hold '/'`},
		{"plus in a command", "cmnd/{device}/{command}", "", "+", nil, "", "", `may not hold '+'`},
		{"hash in a value", "cmnd/{value}", "", "a", text("#"), "", "", `may not hold '#'`},
		{"NUL in a value", "cmnd/{value}", "", "a", text("\x00"), "", "", "may not hold"},
		{"empty value", "cmnd/{value}", "", "a", nil, "", "", "not empty"},
		{"no UTF-8", "cmnd/{command}", "", "\xff", nil, "", "", "UTF-8"},
		{"a dollar in front", "{command}/x", "", "$SYS", nil, "", "", "begin with $"},
		{"the native tree", "{command}/x", "", "signalbox", nil, "", "", "hub's own"},
		{"NUL in a payload is the maker's", "x", "{value}", "a", text("a\x00/+#"), "x", "a\x00/+#", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			topic, payload, err := mapped.Fill(mapped.Template{Topic: tt.topic, Payload: tt.payload}, "lamp", tt.command, tt.value, "one", "two")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || signalbox.CodeOf(err) != "command_unsuitable" || topic != "" || payload != "" {
					t.Errorf("gave %q, %q and the error %v, which should say %q", topic, payload, err, tt.err)
				}
				return
			}
			if err != nil || topic != tt.wantTopic || payload != tt.wantPayload {
				t.Errorf("gave %q, %q, %v; want %q, %q", topic, payload, err, tt.wantTopic, tt.wantPayload)
			}
		})
	}
}

// FuzzTemplate: whatever stands for a placeholder stays in its level of the topic, and a value as
// JSON is JSON.
func FuzzTemplate(f *testing.F) {
	f.Add("cmnd/{device}/{command}", "{value}", "Power", "ON")
	f.Add("{command.1}/{command.2}/{1}", `{"a":{value.json}}`, "a.b", "\"")
	f.Add("a/{value}{id}", "{command.8}", "a/b", "+")
	f.Fuzz(func(t *testing.T, topicText, payloadText, command, value string) {
		topic, _, err := mapped.Fill(mapped.Template{Topic: topicText, Payload: payloadText}, "lamp", command, &value, "one")
		if err != nil {
			if kind := signalbox.KindOf(err); kind != signalbox.KindInvalid || topic != "" {
				t.Fatalf("topic %q and an error of kind %d: %v", topic, kind, err)
			}
			return
		}
		if strings.Count(topic, "/") != strings.Count(topicText, "/") || strings.ContainsAny(topic, "+#\x00") || !utf8.ValidString(topic) || topic == "" {
			t.Fatalf("the template %q gave the topic %q", topicText, topic)
		}
		if topic[0] == '$' || topic == "signalbox" || strings.HasPrefix(topic, "signalbox/") {
			t.Fatalf("the template %q gave the topic %q", topicText, topic)
		}
		_, payload, err := mapped.Fill(mapped.Template{Topic: "x", Payload: "{value.json}"}, "lamp", command, &value)
		if err != nil || !json.Valid([]byte(payload)) {
			t.Fatalf("the value %q became %q: %v", value, payload, err)
		}
	})
}
