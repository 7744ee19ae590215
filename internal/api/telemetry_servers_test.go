package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/history"
	"signalbox/internal/replay"
	"signalbox/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// longPast gives two boxes and a sensor a past that is for the most part in chunks, a tenth of
// it late.
func longPast(t *testing.T, h *hub) {
	t.Helper()
	const n = 2000
	for name, kind := range map[string]string{"box1": "box", "box2": "box", "env01": "sensor"} {
		h.add(t, name, kind)
	}
	var e signalbox.Entry
	for i := range n {
		at := noon.Add(time.Duration(i) * time.Second)
		if i%10 == 9 {
			at = at.Add(-20 * time.Minute)
		}
		name := []string{"box1", "box2", "env01"}[i*i%7%3]
		e = signalbox.Entry{
			Device: h.devices.Find(name).ID, Kind: signalbox.EntryTelemetry, TimeMicros: at.UnixMicro(),
			Body: fmt.Appendf(nil, `{"type":"telemetry","temp":%d.5,"in":{"hum":%d},"note":"день %d"}`, i%40, i%90, i%3),
		}
		must(t, h.log.Append(&e, history.Soon))
		if i%50 == 49 {
			must(t, h.log.Wait(t.Context(), e.Position))
		}
	}
	must(t, h.log.Wait(t.Context(), e.Position))
	if h.log.Stats().Chunks.Load() == 0 {
		t.Fatal("nothing is in chunks")
	}
}

// What differs from one hub to the next.
var (
	receipts = regexp.MustCompile(`"received":"[^"]*"`)
	marks    = regexp.MustCompile(`"replay":\{[^}]*\}`)
	receipt  = regexp.MustCompile(`(?m)^([^,\n]*),[^,\n]*,`)
)

// TestSameAnswersOnEachDatabase asks the same questions about the same past everywhere.
func TestSameAnswersOnEachDatabase(t *testing.T) {
	one := v1 + "/devices/box1/telemetry"
	questions := []string{
		one + "?limit=20",
		one + "?limit=7&order=asc",
		one + "?from=2024-05-01T12:10:00Z&to=2024-05-01T12:40:00Z&order=asc&limit=1000",
		one + "?fields=in.hum,temp&limit=500&format=ndjson",
		one + "?fields=note&limit=500&format=csv",
		one + "?at=2024-05-01T12:33:20Z",
		one + "?row=200&limit=5",
		one + "?row=3&limit=1",
		one + "?buckets=13&fields=temp,in.hum&to=2024-05-01T13:10:00Z",
		one + "?buckets=1000&fields=temp&from=2024-05-01T12:00:00Z&to=2024-05-01T13:00:00Z&format=csv",
		v1 + "/telemetry?type=box",
		v1 + "/telemetry?device=env01&device=box2&from=2024-05-01T12:20:00Z&fields=temp",
		v1 + "/telemetry?limit=100",
		v1 + "/telemetry?limit=100&format=csv&fields=temp",
		v1 + "/export?format=ndjson&type=sensor",
		v1 + "/export?format=csv&from=2024-05-01T12:30:00Z&to=2024-05-01T12:50:00Z",
	}
	first := map[string]string{}
	storetest.Each(t, func(t *testing.T, db *storetest.Database) {
		t.Helper()
		h := newHubOn(t, db.Config(), history.Config{TailEntries: 300, RowBytes: 8 << 10}, func(c *api.Config) {
			c.Replays = replay.New(replay.Config{History: c.History.(replay.History), NameOf: directory{c.Devices}.NameOf, Hub: "hub1"})
		})
		longPast(t, h)
		same := func(question, answer string) {
			t.Helper()
			if want, asked := first[question]; !asked {
				first[question] = answer
			} else if answer != want {
				t.Errorf("%s\ngives %d bytes %.300s\nwhere %d bytes %.300s were given before", question, len(answer), answer, len(want), want)
			}
		}
		for _, q := range questions {
			w := h.ask("GET", q, "", "read", nil)
			if w.Code != http.StatusOK || w.Body.Len() < 50 {
				t.Fatalf("%s gives %d %s", q, w.Code, w.Body)
			}
			answer := receipts.ReplaceAllString(w.Body.String(), "received")
			if strings.Contains(q, "format=csv") && !strings.Contains(q, "buckets") {
				answer = receipt.ReplaceAllString(answer, "$1,")
			}
			same(q, answer)
		}
		same("page by page", strings.Join(pages(t, h, one+"?limit=97&order=asc&fields=temp"), "\n"))

		server := httptest.NewServer(h.handler)
		defer server.Close()
		v := h.view(t, server, h.startReplay(t, `{"types":["box"],"from":"2024-05-01T12:05:00Z","to":"2024-05-01T12:50:00Z","speed":0}`), "")
		var played strings.Builder
		for v.lines.Scan() {
			if line := v.lines.Text(); !strings.HasPrefix(line, ":") {
				played.WriteString(marks.ReplaceAllString(receipts.ReplaceAllString(line, "received"), "mark") + "\n")
			}
		}
		if n := strings.Count(played.String(), "event: telemetry"); n < 500 {
			t.Errorf("%d messages were played", n)
		}
		same("a replay", played.String())
	})
}

// pages asks for one page behind the other.
func pages(t *testing.T, h *hub, question string) (all []string) {
	t.Helper()
	for cursor := ""; ; {
		w := h.ask("GET", question+cursor, "", "read", nil)
		var page struct {
			Items []json.RawMessage
			Next  string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for _, item := range page.Items {
			all = append(all, receipts.ReplaceAllString(string(item), "received"))
		}
		if page.Next == "" {
			return all
		}
		cursor = "&cursor=" + page.Next
	}
}
