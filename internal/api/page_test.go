package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/ingest"
)

// TestLongPages: a page of long messages ends early, whole messages only, and goes on where
// it ended.
func TestLongPages(t *testing.T) {
	h := newHub(t, nil)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	const n, size = 600, 60_000
	filler := strings.Repeat("x", size)
	for i := range n {
		body := fmt.Sprintf(`{"n":%d,"filler":%q}`, i, filler)
		if i >= 300 {
			body = fmt.Sprintf(`{"n":%d}`, i) // short ones first, newest first: the parts grow
		}
		if _, v := h.ingest.Telemetry(b.device, b.session.ID, &ingest.Message{Body: []byte(body)}); v != ingest.Stored {
			t.Fatalf("verdict %v", v)
		}
	}
	must(t, h.log.Wait(t.Context(), h.log.Head()))
	for _, tt := range []struct{ order, format string }{{"desc", "json"}, {"asc", "ndjson"}} {
		seen, pages, cursor := 0, 0, ""
		for {
			w := h.ask("GET", v1+"/devices/esp01/telemetry?limit=10000&order="+tt.order+"&format="+tt.format+"&cursor="+cursor, "", "read", nil)
			if w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if w.Body.Len() > api.PageBytes+1<<20 {
				t.Errorf("a page has %d bytes", w.Body.Len())
			}
			numbers := gjson.GetBytes(w.Body.Bytes(), "items.#.object.n")
			next := gjson.GetBytes(w.Body.Bytes(), "next").Str
			if tt.format == "ndjson" {
				numbers, next = gjson.GetBytes(w.Body.Bytes(), "..#.object.n"), w.Header().Get("Signalbox-Next")
			}
			for _, i := range numbers.Array() {
				want := seen
				if tt.order == "desc" {
					want = n - 1 - seen
				}
				if i.Int() != int64(want) {
					t.Fatalf("%s: message %s where %d is due", tt.order, i.Raw, want)
				}
				seen++
			}
			pages++
			if cursor = next; cursor == "" {
				break
			}
		}
		if seen != n || pages != 2 {
			t.Errorf("%s: %d messages in %d pages; want %d in 2", tt.order, seen, pages, n)
		}
	}
}

// wide is an object of n fields whose names begin with prefix.
func wide(prefix string, n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, ",%q:%d", prefix+fmt.Sprint(i), i)
	}
	return "{" + out.String()[1:] + "}"
}

func TestColumns(t *testing.T) {
	h := newHub(t, nil)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	for i := range 4 {
		b.report(t, wide(fmt.Sprint("f", i, "_"), 250))
	}
	url := v1 + "/devices/esp01/telemetry?format=csv"
	many := []string{"one"}
	for i := range 1000 {
		many = append(many, fmt.Sprint("f", i/250, "_", i%250))
	}
	run(t, h, []scenario{
		{name: "as many as allowed", method: "GET", url: url, as: "read", status: 200, want: []string{"f0_0,", "f3_249,"}},
		{name: "as many fields as allowed", method: "GET", url: url + "&fields=" + strings.Join(many[1:], ","), as: "read", status: 200},
		{name: "too many fields", method: "GET", url: url + "&fields=" + strings.Join(many, ","), as: "read", status: 400, want: []string{"too_many_columns", "1001", "at most 1000"}},
		{name: "the same field again", method: "GET", url: v1 + "/devices/esp01/telemetry?limit=1&fields=f3_0,f3_0", as: "read", status: 200, want: []string{`"object":{"f3_0":0}`}},
	})
	b.report(t, `{"one":{"more":1}}`)
	run(t, h, []scenario{
		{name: "too many", method: "GET", url: url, as: "read", status: 400, want: []string{"too_many_columns", "more than 1000", "fields="}},
		{name: "chosen", method: "GET", url: url + "&fields=one.more,f0_7", as: "read", status: 200, want: []string{"time,received,position,one.more,f0_7\n", ",1,\n", ",,7\n"}},
		{name: "as JSON", method: "GET", url: v1 + "/devices/esp01/telemetry", as: "read", status: 200, want: []string{"f0_0", `"one":{"more":1}`}},
	})
}

// TestPagesEndWithTheirRequest: nobody writes pages for a caller that has gone.
func TestPagesEndWithTheirRequest(t *testing.T) {
	items := []signalbox.Telemetry{{Object: json.RawMessage(`{"a":1}`)}}
	ctx, cancel := context.WithCancel(t.Context())
	for _, format := range []string{"json", "ndjson", "csv"} {
		if _, _, err := api.EncodePage(ctx, items, format, nil, ""); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
	cancel()
	for _, format := range []string{"json", "ndjson", "csv"} {
		for _, fields := range [][]string{nil, {"a"}} {
			if _, _, err := api.EncodePage(ctx, items, format, fields, ""); err == nil {
				t.Errorf("%s of fields %v was written although the caller had gone", format, fields)
			}
		}
	}
}

func TestQueries(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "esp01", "box")
	telemetry := v1 + "/devices/esp01/telemetry"
	run(t, h, []scenario{
		{name: "unknown", method: "GET", url: v1 + "/devices?lmit=1", as: "read", status: 400, want: []string{`"code":"unknown_parameter"`, `there is no parameter \"lmit\" here; known are cursor, limit, pending, prefix, presence and type`, `"location":"query.lmit"`}},
		{name: "unknown beside known", method: "GET", url: telemetry + "?limit=1&page=2", as: "read", status: 400, want: []string{`\"page\"`}},
		{name: "unknown where there are none", method: "GET", url: v1 + "/me?x=", as: "read", status: 400, want: []string{"takes no parameters"}},
		{name: "unknown in a POST", method: "POST", url: v1 + "/devices/esp01/commands?ttl=5s", body: `{"command":"x"}`, as: "command", status: 400, want: []string{`\"ttl\"`, "known are wait"}},
		{name: "unknown in a login", method: "POST", url: v1 + "/login?next=/", body: `{"name":"admin","password":"x"}`, status: 400, want: []string{`\"next\"`}},
		{name: "unknown in a stream", method: "GET", url: v1 + "/stream?kinds=telemetry", as: "read", status: 400, want: []string{"known are cursor, device, every, fields, kind, snapshot and type"}},
		{name: "a long name", method: "GET", url: v1 + "/devices?" + strings.Repeat("x", 5000), as: "read", status: 400, want: []string{"xxx…"}, not: []string{strings.Repeat("x", 200)}},
		{name: "a credential comes first", method: "GET", url: v1 + "/devices?lmit=1", status: 401},
		{name: "twice", method: "GET", url: telemetry + "?fields=a&fields=b", as: "read", status: 400, want: []string{"fields is given 2 times; once is allowed"}},
		{name: "several where several may be", method: "GET", url: v1 + "/devices?type=box&type=station", as: "read", status: 200, want: []string{"esp01"}},
		{name: "empty is absent", method: "GET", url: v1 + "/devices?presence=&limit=&cursor=", as: "read", status: 200, want: []string{"esp01"}},
		{name: "unreadable", method: "GET", url: v1 + "/devices?limit=%zz", as: "read", status: 400, want: []string{"cannot be read"}},
		{name: "a semicolon", method: "GET", url: v1 + "/devices?limit=1;type=box", as: "read", status: 400, want: []string{"cannot be read"}},
		{name: "not of a list", method: "GET", url: v1 + "/devices?presence=away", as: "read", status: 400, want: []string{`"detail":"presence is \"away\"; allowed are online and offline"`, `"location":"query.presence"`}},
		{name: "not of a list, several", method: "GET", url: v1 + "/stream?kind=telemetry&kind=rumour", as: "read", status: 400, want: []string{`"detail":"kind is \"rumour\"; allowed are telemetry, presence, command and alert"`}},
		{name: "not a number", method: "GET", url: telemetry + "?limit=many", as: "read", status: 400, want: []string{`"detail":"limit is \"many\"; allowed are whole numbers from 1 to 10000"`}},
		{name: "too large a number", method: "GET", url: telemetry + "?limit=10001", as: "read", status: 400, want: []string{`"detail":"limit is \"10001\"; allowed are whole numbers from 1 to 10000"`}},
		{name: "not of a list in a body", method: "POST", url: v1 + "/tokens", body: `{"name":"t","scope":"root"}`, as: "admin", status: 400, want: []string{`scope is \"root\"; allowed are read, command and admin`}},
	})
}
