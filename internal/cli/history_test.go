package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/client"
	past "signalbox/internal/history"
	"signalbox/internal/store"
)

// withPast makes a data directory with two boxes and a station, and an hour of their telemetry
// on May 1st, 2024: box1 each minute, box2 each ten, the station twice.
func withPast(t *testing.T) *station {
	t.Helper()
	local := time.Local
	t.Cleanup(func() { time.Local = local }) // after all that is begun below has ended
	time.Local = time.UTC
	s := newStation(t)
	s.feed("box1,box\nbox2,box\nстанция,station\n", "import", "-").want(t, ExitOK)
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), store.Config{Dir: s.dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	log, err := past.Open(t.Context(), past.Config{Logger: logger}, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	put := func(device signalbox.DeviceID, minute int, object string) {
		e := signalbox.Entry{Device: device, Kind: signalbox.EntryTelemetry, TimeMicros: noon.Add(time.Duration(minute) * time.Minute).UnixMicro(), Body: []byte(object)}
		if err := log.Append(&e, past.Now); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		put(1, i, fmt.Sprintf(`{"type":"telemetry","temp":%d.5,"in":{"hum":%d},"status":"работает"}`, 20+i%10, 40+i))
		if i%10 == 0 {
			put(2, i, fmt.Sprintf(`{"temp":%d}`, 100-i))
		}
		if i%30 == 15 {
			put(3, i, `{"wind":3.5,"note":"a, \"b\""}`)
		}
	}
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { ended <- log.Run(ctx, time.Second) }()
	if err := log.Wait(t.Context(), log.Head()); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHistoryGolden(t *testing.T) {
	s := withPast(t)
	for _, tt := range []struct{ file, args string }{
		{"last.txt", "box1 --last 3"},
		{"fields.txt", "box1 --last 3 --fields temp,in.hum,status"},
		{"desc.txt", "box1 --order desc --limit 2 --fields in.hum"},
		{"limit.txt", "box1 --limit 2 --fields in.hum"},
		{"all.csv", "станция --all --csv"},
		{"range.csv", "box1 --from 2024-05-01T12:10 --to 2024-05-01T12:12 --csv --fields in.hum,temp,in"},
		{"at.txt", "box1 --at 2024-05-01T12:30:59 --fields temp,in.hum"},
		{"at-long-ago.txt", "box1 --at 1990-01-01"},
		{"row.txt", "box1 --row 57 --fields in.hum"},
		{"row-behind.txt", "box1 --row 100"},
		{"row.json", "box1 --row 58 --json --fields temp"},
		{"buckets.txt", "box1 --buckets 6 --fields temp,in.hum,status --from 2024-05-01T12:00 --to 2024-05-01T13:00"},
		{"buckets.csv", "box1 --buckets 2 --fields temp,in.hum --from 2024-05-01T12:00 --to 2024-05-01T13:00 --csv"},
		{"buckets.json", "box2 --buckets 2 --fields temp --from 2024-05-01T12:00 --to 2024-05-01T13:00 --json"},
		{"type.txt", "--type box --from 2024-05-01T12:09 --to 2024-05-01T12:12"},
		{"type-fields.txt", "--type box --from 2024-05-01T12:09 --to 2024-05-01T12:12 --fields temp,status"},
		{"everything.csv", "--all --csv --fields temp,note --limit 20"},
		{"two.csv", "box2 станция --csv"},
		{"two.json", "box2 станция --json --limit 3"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			r := s.run(append([]string{"history"}, strings.Fields(tt.args)...)...).want(t, ExitOK)
			have := withoutReceived(r.out + r.err)
			want, err := os.ReadFile(filepath.Join("testdata", "history", tt.file))
			if err != nil || have != string(want) {
				t.Errorf("%v, have\n%s\nwant\n%s", err, have, want)
			}
		})
	}
}

// withoutReceived takes the times of receipt out, which are those of the test.
func withoutReceived(text string) string {
	year := time.Now().UTC().Format("2006-")
	for {
		at := strings.Index(text, year)
		if at < 0 {
			return text
		}
		end := strings.IndexByte(text[at:], 'Z')
		if end < 0 {
			return text
		}
		text = text[:at] + "RECEIVED" + text[at+end+1:]
	}
}

func TestHistoryUsage(t *testing.T) {
	s := withPast(t)
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"", "name a device or a --type, or give --all", ExitUsage},
		{"box1 --last 5 --limit 5", "--last and --limit exclude each other", ExitUsage},
		{"box1 --at 1h --from 2h", "--at and --from exclude each other", ExitUsage},
		{"box1 --at 1h --row 2", "--at and --row exclude each other", ExitUsage},
		{"box1 --row 1 --order desc", "--row and --order exclude each other", ExitUsage},
		{"box1 --row -1", "--row -1: allowed is 0 or more", ExitUsage},
		{"box1 --row many", "--row many", ExitUsage},
		{"box1 --buckets 5", "--buckets needs --fields", ExitUsage},
		{"box1 --buckets 0 --fields temp", "--buckets 0: allowed is 1 to 10000", ExitUsage},
		{"box1 --buckets 5 --fields temp --limit 3", "--buckets and --limit exclude each other", ExitUsage},
		{"box1 --limit 0", "--limit 0: allowed is 1 or more", ExitUsage},
		{"box1 --last 0", "--last 0: allowed is 1 to 100000", ExitUsage},
		{"box1 --csv --json", "--csv and --json exclude each other", ExitUsage},
		{"box1 --from tomorrow", "--from tomorrow is no time", ExitUsage},
		{"box1 --from 1h --to 2h", "--from 1h is not before --to 2h", ExitUsage},
		{"box1 --order up", "allowed are asc and desc", ExitUsage},
		{"box1 box2 --at 1h", "--at asks one device", ExitUsage},
		{"--type box --buckets 3 --fields temp", "--buckets asks one device", ExitUsage},
		{"--type box --order desc", "--order desc asks one device", ExitUsage},
		{"box1 --fields tmep", `has a field "tmep"; the latest has type, temp, in.hum and status`, ExitUsage},
		{"--all --fields tmep", `has a field "tmep"`, ExitUsage},
		{"nobody --buckets 2 --fields temp", "nobody", ExitNotFound},
		{"box1 nobody", "nobody", ExitNotFound},
		{"--type rocket", "rocket", ExitNotFound},
	} {
		t.Run(tt.args, func(t *testing.T) {
			if r := s.run(append([]string{"history"}, strings.Fields(tt.args)...)...).want(t, tt.code, tt.want); r.out != "" {
				t.Errorf("it printed %s", r.out)
			}
		})
	}
}

func TestSparkline(t *testing.T) {
	start := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	b := &client.Buckets{From: start, To: start.Add(10 * time.Second), WidthMs: 1000}
	series := func(values map[int]float64) *client.Series {
		s := &client.Series{}
		for i := range 10 {
			if v, ok := values[i]; ok {
				s.Buckets = append(s.Buckets, client.Bucket{Start: start.Add(time.Duration(i) * time.Second), Count: 1, Avg: &v})
			}
		}
		return s
	}
	for _, tt := range []struct {
		name    string
		values  map[int]float64
		columns int
		want    string
	}{
		{"a slope", map[int]float64{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7}, 60, "▁▂▃▄▅▆▇█  "},
		{"a gap", map[int]float64{0: -5, 9: 5}, 60, "▁        █"},
		{"all the same", map[int]float64{0: 3, 1: 3}, 60, "▅▅        "},
		{"nothing", nil, 60, "          "},
		{"shared columns", map[int]float64{0: 0, 1: 2, 8: 9, 9: 9}, 5, "▁   █"},
	} {
		if have := sparkline(b, series(tt.values), tt.columns); have != tt.want {
			t.Errorf("%s: %q, not %q", tt.name, have, tt.want)
		}
	}
	for d, want := range map[time.Duration]string{time.Hour: "1h", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h", time.Minute: "1m", 1500 * time.Millisecond: "1.5s", 10 * time.Second: "10s"} {
		if have := widthText(d); have != want {
			t.Errorf("%v is %q, not %q", d, have, want)
		}
	}
}
