package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
)

// noon is when the stories of these tests begin.
var noon = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// past stores a message of an earlier time.
func (h *hub) past(t testing.TB, device string, at time.Time, object string) signalbox.Position {
	t.Helper()
	e := signalbox.Entry{Device: h.devices.Find(device).ID, Kind: signalbox.EntryTelemetry, TimeMicros: at.UnixMicro(), Body: []byte(object)}
	must(t, h.log.Append(&e, history.Now))
	must(t, h.log.Wait(t.Context(), e.Position))
	return e.Position
}

// aDay has two boxes, a station and their readings: box1 each minute, box2 each two minutes,
// the station once.
func aDay(t testing.TB) *hub {
	t.Helper()
	h := newHub(t, nil)
	h.add(t, "box1", "box")
	h.add(t, "box2", "box")
	h.add(t, "станция", "station")
	h.add(t, "silent", "box")
	for i := range 60 {
		at := noon.Add(time.Duration(i) * time.Minute)
		h.past(t, "box1", at, fmt.Sprintf(`{"type":"telemetry","temp":%d.5,"in":{"hum":%d},"status":"ok"}`, 20+i%10, 40+i))
		if i%2 == 0 {
			h.past(t, "box2", at, fmt.Sprintf(`{"temp":"%d, or so","n":%d}`, i, i))
		}
	}
	h.past(t, "станция", noon.Add(30*time.Minute+time.Millisecond+333*time.Microsecond), `{ "wind" : 1e3,`+"\n"+` "list" : [1,`+"\n"+`2] , "note": "a\nb \"c\", d" }`)
	return h
}

func TestTelemetryQuestions(t *testing.T) {
	h := aDay(t)
	one := v1 + "/devices/box1/telemetry"
	run(t, h, []scenario{
		{name: "a range of chosen fields", method: "GET", url: one + "?fields=in.hum,temp&from=2024-05-01T12:05:00Z&to=2024-05-01T12:07:00Z&order=asc&format=ndjson", as: "read", status: 200, want: []string{`"object":{"in.hum":45,"temp":25.5}}`, `"object":{"in.hum":46,"temp":26.5}}`}, not: []string{"status", `"in.hum":47`}},
		{name: "a range of whole objects", method: "GET", url: one + "?from=2024-05-01T12:05:00Z&to=2024-05-01T12:06:00Z", as: "read", status: 200, want: []string{`"object":{"type":"telemetry","temp":25.5,"in":{"hum":45},"status":"ok"}`}},
		{name: "as of a time", method: "GET", url: one + "?at=2024-05-01T12:05:59.999Z", as: "read", status: 200, want: []string{`"time":"2024-05-01T12:05:00.000Z"`, `"hum":45`}, not: []string{`"next"`, "2024-05-01T12:06", "2024-05-01T12:04"}},
		{name: "as of the time of a message", method: "GET", url: one + "?at=2024-05-01T12:05:00Z&fields=in.hum", as: "read", status: 200, want: []string{`"object":{"in.hum":45}`}},
		{name: "as of the millisecond of a message", method: "GET", url: v1 + "/devices/" + url.PathEscape("станция") + "/telemetry?at=2024-05-01T12:30:00.001Z", as: "read", status: 200, want: []string{`"wind":1e3`}},
		{name: "as of long ago", method: "GET", url: one + "?at=1970-01-01T00:00:00Z", as: "read", status: 200, want: []string{`{"items":[]}`}},
		{name: "as of now, as CSV", method: "GET", url: one + "?at=2030-01-01T00:00:00Z&format=csv&fields=temp", as: "read", status: 200, want: []string{"time,received,position,temp\n2024-05-01T12:59:00.000Z,", ",29.5\n"}},
		{name: "row 0", method: "GET", url: one + "?row=0&limit=2&fields=in.hum", as: "read", status: 200, want: []string{`{"in.hum":40}`, `{"in.hum":41}`, `"next":"`}, not: []string{`"in.hum":42`}},
		{name: "the last rows", method: "GET", url: one + "?row=58&limit=10&format=csv&fields=in.hum", as: "read", status: 200, want: []string{",98\n", ",99\n"}, not: []string{",97\n"}, heads: map[string]string{"Signalbox-Next": ""}},
		{name: "behind the last row", method: "GET", url: one + "?row=60", as: "read", status: 200, want: []string{`{"items":[]}`}},
		{name: "far behind the last row", method: "GET", url: one + "?row=9223372036854775807", as: "read", status: 200, want: []string{`{"items":[]}`}},
		{name: "buckets", method: "GET", url: one + "?buckets=6&fields=temp,in.hum&from=2024-05-01T12:00:00Z&to=2024-05-01T13:00:00Z", as: "read", status: 200, want: []string{
			`{"from":"2024-05-01T12:00:00.000Z","to":"2024-05-01T13:00:00.000Z","width_ms":600000,"series":[{"field":"temp","buckets":[{"start":"2024-05-01T12:00:00.000Z","count":10,"min":20.5,"max":29.5,"avg":25,"last":29.5},`,
			`{"field":"in.hum","buckets":[{"start":"2024-05-01T12:00:00.000Z","count":10,"min":40,"max":49,"avg":44.5,"last":49},`, `{"start":"2024-05-01T12:50:00.000Z","count":10,"min":90,"max":99,"avg":94.5,"last":99}]}]}`,
		}},
		{name: "buckets with nothing in most", method: "GET", url: one + "?buckets=4&fields=temp&from=2024-05-01T11:00:00Z&to=2024-05-01T15:00:00Z&format=ndjson", as: "read", status: 200, want: []string{`{"field":"temp","start":"2024-05-01T12:00:00.000Z","count":60,`}, not: []string{"11:00", "13:00", "null"}},
		{name: "buckets of text", method: "GET", url: one + "?buckets=4&fields=status", as: "read", status: 200, want: []string{`"series":[{"field":"status","buckets":[]}]`}},
		{name: "more buckets than milliseconds", method: "GET", url: one + "?buckets=10000&fields=temp&from=2024-05-01T12:00:00Z&to=2024-05-01T12:00:00.007Z", as: "read", status: 200, want: []string{`"width_ms":1,`, `"count":1,`}},
		{name: "a shorter last bucket", method: "GET", url: one + "?buckets=2&fields=temp&from=2024-05-01T11:59:59.998Z&to=2024-05-01T12:00:00.001Z", as: "read", status: 200, want: []string{`"width_ms":2,`, `[{"start":"2024-05-01T12:00:00.000Z","count":1,`}},
		{name: "buckets of a device without messages", method: "GET", url: v1 + "/devices/silent/telemetry?buckets=2&fields=temp", as: "read", status: 200, want: []string{`{"width_ms":0,"series":[{"field":"temp","buckets":[]}]}`}},
		{name: "buckets before the first message", method: "GET", url: one + "?buckets=2&fields=temp&to=2024-05-01T11:00:00Z", as: "read", status: 200, want: []string{`"buckets":[]`}},
		{name: "buckets of 8,000 years", method: "GET", url: one + "?buckets=100&fields=temp&from=0500-01-01T00:00:00Z&to=9000-01-01T00:00:00Z&format=csv", as: "read", status: 200, want: []string{",temp,60,20.5,29.5,25,29.5\n"}},
	})
}

func TestTelemetryBadQuestions(t *testing.T) {
	h := aDay(t)
	one := v1 + "/devices/box1/telemetry"
	long := strings.Repeat("x", 3000)
	bad := []struct{ name, url, want string }{
		{"from after to", one + "?from=2024-05-02T00:00:00Z&to=2024-05-01T00:00:00Z", "from is 2024-05-02T00:00:00Z and to is 2024-05-01T00:00:00Z; from must be before to"},
		{"from is to", one + "?from=0&to=0", "from must be before to"},
		{"no time", one + "?from=NaN", `from is \"NaN\"; allowed are RFC 3339 times`},
		{"infinite time", one + "?to=%2BInf", `to is \"+Inf\"`},
		{"a fraction of a time", one + "?at=1e12", `at is \"1e12\"`},
		{"a plus that became a space", one + "?from=2024-05-01T12:00:00+02:00", "%2B"},
		{"a time out of all reach", one + "?from=99999999999999999", "allowed are"},
		{"no whole limit", one + "?limit=-1", "whole numbers from 1 to 10000"},
		{"limit", one + "?limit=10001", "whole numbers from 1 to 10000"},
		{"no buckets", one + "?buckets=0&fields=temp", `buckets is \"0\"; allowed are whole numbers from 1 to 10000`},
		{"too many buckets", one + "?buckets=10001&fields=temp", "1 to 10000"},
		{"too many buckets of fields", one + "?buckets=10000&fields=" + strings.Join(strings.Split(long[:21], ""), "1,") + fields(20), "the product of both may be 200000 at most"},
		{"buckets without fields", one + "?buckets=10", "buckets needs fields"},
		{"buckets from after to", one + "?buckets=10&fields=temp&from=2&to=1", "from must be before to"},
		{"buckets from tomorrow", one + "?buckets=10&fields=temp&from=2999-01-01T00:00:00Z", "from must be before to"},
		{"buckets too long", one + "?buckets=1&fields=temp&from=0500-01-01T00:00:00Z&to=9000-01-01T00:00:00Z", "100 years long at most"},
		{"buckets of an unknown field", one + "?buckets=10&fields=temp,tmep", `none of the messages there are has a field \"tmep\"; the latest has type, temp, in.hum and status`},
		{"buckets and a limit", one + "?buckets=10&fields=temp&limit=5", "buckets and limit exclude each other; buckets goes with fields, format, from and to"},
		{"buckets and a cursor", one + "?buckets=10&fields=temp&cursor=x", "buckets and cursor exclude each other"},
		{"buckets and a row", one + "?buckets=10&fields=temp&row=5", "buckets and row exclude each other: a request asks one question"},
		{"at and row", one + "?at=5&row=5", "at and row exclude each other"},
		{"at and from", one + "?at=5&from=5", "at and from exclude each other; at goes with fields and format"},
		{"row and order", one + "?row=5&order=desc", "row and order exclude each other; row goes with fields, format and limit"},
		{"row and to", one + "?row=5&to=5", "row and to exclude each other"},
		{"a negative row", one + "?row=-1", `row is \"-1\"; allowed are whole numbers from 0`},
		{"no number of a row", one + "?row=NaN", "whole numbers"},
		{"broken cursor", one + "?cursor=!!", "was not made by this list"},
		{"a cursor of the other order", one + "?order=asc&cursor=dAAABhdngIt3gAAAAAAAAAAB", "was not made by this list"},
		{"unknown field", one + "?fields=tmep", `has a field \"tmep\"; the latest has`},
		{"unknown fields", one + "?fields=" + fields(9), `\"f0\", \"f1\", \"f2\", \"f3\" and \"f4\" (and 4 more)`},
		{"an unknown field as of a time", one + "?at=2030-01-01T00:00:00Z&fields=" + long, "xxx…"},
		{"an unknown field by row", one + "?row=3&fields=hum", `a field \"hum\"`},
		{"an empty field", one + "?fields=temp,,hum", "the field is empty"},
		{"all: from after to", v1 + "/telemetry?from=2&to=1", "from must be before to"},
		{"all: as JSON", v1 + "/telemetry?format=json", `format is \"json\"; allowed are ndjson and csv`},
		{"all: no messages", v1 + "/telemetry?limit=0", `limit is \"0\"; allowed are whole numbers from 1`},
		{"all: no time", v1 + "/telemetry?from=yesterday", `from is \"yesterday\"`},
		{"all: an unknown field", v1 + "/telemetry?fields=tmep", `has a field \"tmep\"`},
		{"all: a field of others", v1 + "/telemetry?fields=wind&type=box", `has a field \"wind\"`},
		{"all: device and type that do not fit", v1 + "/telemetry?device=box1&type=station", `none of the devices named is of the type \"station\"`},
		{"all: an unknown parameter", v1 + "/telemetry?buckets=5", "known are device, fields, format, from, limit, to and type"},
	}
	list := make([]scenario, 0, len(bad)+4)
	for _, b := range bad {
		list = append(list, scenario{name: b.name, method: "GET", url: b.url, as: "read", status: 400, want: []string{b.want}, not: []string{long[:200]}})
	}
	run(t, h, append(list,
		scenario{name: "unknown device", method: "GET", url: v1 + "/devices/nobody/telemetry?buckets=5&fields=a", as: "read", status: 404, want: []string{"device_not_found", "nobody"}},
		scenario{name: "all: unknown device", method: "GET", url: v1 + "/telemetry?device=box1&device=nobody", as: "read", status: 404, want: []string{"device_not_found", "nobody"}},
		scenario{name: "all: unknown type", method: "GET", url: v1 + "/telemetry?type=rocket", as: "read", status: 404, want: []string{"type_not_found", "rocket"}},
		scenario{name: "all: nobody", method: "GET", url: v1 + "/telemetry", status: 401},
	))
}

// TestTelemetryDocuments: the API's description tells of every parameter, answer and format.
func TestTelemetryDocuments(t *testing.T) {
	h := newHub(t, nil)
	spec := gjson.ParseBytes(h.ask("GET", "/openapi.json", "", "read", nil).Body.Bytes())
	for path, params := range map[string]string{
		`/api/v1/devices/{name}/telemetry`: "name from to limit cursor order fields format buckets at row",
		`/api/v1/telemetry`:                "type device from to fields limit format",
	} {
		op := spec.Get("paths").Map()[path].Get("get")
		var names []string
		for _, p := range op.Get("parameters").Array() {
			names = append(names, p.Get("name").Str)
			if p.Get("description").Str == "" {
				t.Errorf("%s: the parameter %s has no description", path, p.Get("name").Str)
			}
		}
		if have := strings.Join(names, " "); have != params {
			t.Errorf("%s has the parameters %s", path, have)
		}
		for _, kind := range []string{"application/x-ndjson", "text/csv"} {
			if !op.Get("responses.200.content").Map()[kind].Exists() {
				t.Errorf("%s: an answer as %s is not described", path, kind)
			}
		}
	}
	for schema, members := range map[string]string{
		"DeviceTelemetry": "device position time received object", "BucketsBody": "from to width_ms series", "Series": "field buckets", "Bucket": "start count min max avg last",
	} {
		for m := range strings.FieldsSeq(members) {
			if !spec.Get("components.schemas." + schema + ".properties." + m).Exists() {
				t.Errorf("the schema %s misses %s", schema, m)
			}
		}
	}
}

// fields names n fields f0, f1 and so on.
func fields(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("f", i)
	}
	return strings.Join(names, ",")
}

// TestOldFields: a field that only older messages have is no fault, wherever it is asked for.
func TestOldFields(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "box1", "box")
	for i := range 400 {
		object := fmt.Sprintf(`{"n":%d}`, i)
		if i == 150 {
			object = `{"n":150,"fault":"E12","a":{"b":1}}`
		}
		h.past(t, "box1", noon.Add(time.Duration(i)*time.Second), object)
	}
	run(t, h, []scenario{
		{name: "newest first", method: "GET", url: v1 + "/devices/box1/telemetry?fields=fault", as: "read", status: 200, want: []string{`"object":{}`}},
		{name: "an hour without it", method: "GET", url: v1 + "/devices/box1/telemetry?fields=a&from=2024-05-01T12:06:00Z", as: "read", status: 200},
		{name: "an hour without messages", method: "GET", url: v1 + "/devices/box1/telemetry?fields=a.b&from=2025-05-01T12:06:00Z", as: "read", status: 200, want: []string{`"items":[]`}},
		{name: "buckets", method: "GET", url: v1 + "/devices/box1/telemetry?fields=fault&buckets=5", as: "read", status: 200, want: []string{`"buckets":[]`}},
		{name: "all", method: "GET", url: v1 + "/telemetry?fields=fault", as: "read", status: 200, want: []string{`"object":{"fault":"E12"}`}, not: []string{"{}"}},
		{name: "all, a time without it", method: "GET", url: v1 + "/telemetry?fields=fault&from=2024-05-01T12:06:00Z", as: "read", status: 200},
		{name: "unknown", method: "GET", url: v1 + "/devices/box1/telemetry?fields=fault,a.c", as: "read", status: 400, want: []string{`a field \"a.c\"; the latest has n`}},
	})
}

// TestRowsGoOn walks from a row on by the cursors of the answers.
func TestRowsGoOn(t *testing.T) {
	h := aDay(t)
	query := "row=10&limit=20&format=ndjson&fields=in.hum"
	for want, pages := 50, 0; query != ""; pages++ {
		w := h.ask("GET", v1+"/devices/box1/telemetry?"+query, "", "read", nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for _, v := range gjson.GetBytes(w.Body.Bytes(), `..#.object.in\.hum`).Array() {
			if v.Int() != int64(want) {
				t.Fatalf("%s where %d is due", v.Raw, want)
			}
			want++
		}
		query, _ = strings.CutPrefix(w.Header().Get("Link"), "<?")
		query, _ = strings.CutSuffix(query, `>; rel="next"`)
		if query == "" && (want != 100 || pages != 2) {
			t.Errorf("it ended at %d after %d more pages", want, pages)
		}
	}
}

// TestNumbersBeyondFloats: JSON may have them, and an answer has to stay JSON.
func TestNumbersBeyondFloats(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "box1", "box")
	h.past(t, "box1", noon, `{"a":1e999,"b":1e-7}`)
	h.past(t, "box1", noon.Add(time.Second), `{"a":1,"b":1.5e23}`)
	base := v1 + "/devices/box1/telemetry?buckets=1&fields=a,b&from=2024-05-01T12:00:00Z&to=2024-05-01T12:01:00Z&format="
	run(t, h, []scenario{
		{name: "json", method: "GET", url: base + "json", as: "read", status: 200, want: []string{`"count":2,"min":1,"max":null,"avg":null,"last":1}`, `"min":1e-07,"max":1.5e+23,`}},
		{name: "csv", method: "GET", url: base + "csv", as: "read", status: 200, want: []string{"2024-05-01T12:00:00.000Z,a,2,1,,,1\n"}},
	})
}

func TestCSVGolden(t *testing.T) {
	h := aDay(t)
	station := v1 + "/devices/" + url.PathEscape("станция") + "/telemetry"
	received := regexp.MustCompile(`20(2[5-9]|[3-9].)-[-0-9T:.]+Z`) // by the clock of the test
	span := "&from=2024-05-01T12:29:00Z&to=2024-05-01T12:32:00Z"
	for _, tt := range []struct{ file, url string }{
		{"page.csv", station + "?format=csv"},
		{"fields.csv", v1 + "/devices/box1/telemetry?format=csv&order=asc&fields=temp,in.hum,status,in" + span},
		{"buckets.csv", v1 + "/devices/box1/telemetry?format=csv&buckets=5&fields=temp,in.hum&from=2024-05-01T11:55:00Z&to=2024-05-01T12:13:00Z"},
		{"buckets.ndjson", v1 + "/devices/box1/telemetry?format=ndjson&buckets=5&fields=temp,in.hum&from=2024-05-01T11:55:00Z&to=2024-05-01T12:13:00Z"},
		{"all.csv", v1 + "/telemetry?format=csv" + span},
		{"all.ndjson", v1 + "/telemetry?" + span},
		{"all-fields.csv", v1 + "/telemetry?format=csv&fields=temp,note,list" + span},
		{"all-fields.ndjson", v1 + "/telemetry?fields=temp,note,list" + span},
	} {
		t.Run(tt.file, func(t *testing.T) {
			w := h.ask("GET", tt.url, "", "read", nil)
			have := received.ReplaceAllString(w.Body.String(), "RECEIVED")
			want, err := os.ReadFile(filepath.Join("testdata", "history", tt.file))
			if w.Code != http.StatusOK || err != nil || have != string(want) {
				t.Errorf("status %d, %v, have\n%s\nwant\n%s", w.Code, err, have, want)
			}
			if got := w.Header().Get("Content-Type"); !strings.Contains(got, strings.TrimPrefix(filepath.Ext(tt.file), ".")) {
				t.Errorf("type %s", got)
			}
		})
	}
}
