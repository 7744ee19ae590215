package history_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// model is history as anyone would write it who need not be quick.
type model []signalbox.Entry

func (m model) page(q history.Query) []signalbox.Telemetry {
	var hits []signalbox.Entry
	for _, e := range m {
		if e.Device != q.Device || e.Kind != signalbox.EntryTelemetry ||
			!q.From.IsZero() && e.TimeMicros < q.From.UnixMicro() || !q.To.IsZero() && e.TimeMicros >= q.To.UnixMicro() {
			continue
		}
		hits = append(hits, e)
	}
	slices.SortFunc(hits, func(a, b signalbox.Entry) int {
		c := cmp.Or(cmp.Compare(a.TimeMicros, b.TimeMicros), cmp.Compare(a.Position, b.Position))
		if q.Order == history.NewestFirst {
			return -c
		}
		return c
	})
	if q.After != (history.Cursor{}) {
		at := slices.IndexFunc(hits, func(e signalbox.Entry) bool {
			c := cmp.Or(cmp.Compare(e.TimeMicros, q.After.TimeMicros), cmp.Compare(e.Position, q.After.Position))
			return q.Order == history.NewestFirst && c < 0 || q.Order == history.OldestFirst && c > 0
		})
		if at < 0 {
			at = len(hits)
		}
		hits = hits[at:]
	}
	out := []signalbox.Telemetry{}
	for _, e := range hits[:min(len(hits), q.Limit)] {
		out = append(out, signalbox.Telemetry{
			Position: e.Position, Time: time.UnixMicro(e.TimeMicros).UTC(), Received: time.UnixMicro(e.ReceivedMicros).UTC(), Object: e.Body,
		})
	}
	return out
}

func samePage(a, b []signalbox.Telemetry) bool {
	return slices.EqualFunc(a, b, func(x, y signalbox.Telemetry) bool {
		return x.Position == y.Position && x.Time.Equal(y.Time) && x.Received.Equal(y.Received) && string(x.Object) == string(y.Object)
	})
}

// randomHistory appends n entries of a few devices: most in time, some late by a little, by
// much, or at exactly the same time as others.
func randomHistory(t *testing.T, b *bench, rng *rand.Rand, devices, n int, m model) model {
	t.Helper()
	same := time.Now().UnixMicro() - 5_000_000
	for i := range n {
		e := telemetry(signalbox.DeviceID(rng.IntN(devices)+1), fmt.Sprintf(`{"n":%d,"x":%q}`, i, fmt.Sprint(rng.IntN(100))))
		switch rng.IntN(8) {
		case 0:
			e.TimeMicros = same + rng.Int64N(3)
		case 1:
			e.TimeMicros = time.Now().UnixMicro() - rng.Int64N(10_000_000)
		case 2:
			e.TimeMicros = time.Now().UnixMicro() - rng.Int64N(20_000)
		case 3:
			e.TimeMicros = time.Now().UnixMicro() + 1_000_000 // later than now: becomes now
		case 4:
			e.Kind = signalbox.EntryPresence
		}
		u := history.Soon
		if rng.IntN(20) == 0 {
			u = history.Now
		}
		m = append(m, b.append(t, e, u))
		if rng.IntN(60) == 0 {
			b.wait(t, b.log.Head())
		}
	}
	b.wait(t, b.log.Head())
	return m
}

func randomQuery(rng *rand.Rand, devices int, m model) history.Query {
	q := history.Query{Device: signalbox.DeviceID(rng.IntN(devices+1) + 1), Order: history.Order(rng.IntN(2)), Limit: 1 + rng.IntN(40)}
	moment := func() time.Time {
		at := m[rng.IntN(len(m))].TimeMicros + rng.Int64N(3) - 1
		return time.UnixMicro(at)
	}
	if rng.IntN(3) == 0 {
		q.From = moment()
	}
	if rng.IntN(3) == 0 {
		q.To = moment()
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		q.From, q.To = q.To, q.From.Add(time.Microsecond)
	}
	if rng.IntN(2) == 0 {
		e := m[rng.IntN(len(m))]
		q.After = history.Cursor{TimeMicros: e.TimeMicros + rng.Int64N(3) - 1, Position: e.Position}
	}
	return q
}

func checkPages(t *testing.T, b *bench, rng *rand.Rand, devices int, m model) {
	t.Helper()
	for range 60 {
		q := randomQuery(rng, devices, m)
		got, err := b.log.Page(t.Context(), q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if want := m.page(q); !samePage(got, want) {
			t.Fatalf("%+v:\n got %v\nwant %v", q, brief(got), brief(want))
		}
	}
	checkQuestions(t, b, rng, devices, m)
	// Paging through gives everything once.
	for _, order := range []history.Order{history.NewestFirst, history.OldestFirst} {
		for device := range devices {
			q := history.Query{Device: signalbox.DeviceID(device + 1), Order: order, Limit: 7 + rng.IntN(30)}
			all := q
			all.Limit = history.MaxPage
			want := m.page(all)
			var got []signalbox.Telemetry
			for {
				page, err := b.log.Page(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, page...)
				if len(page) < q.Limit {
					break
				}
				q.After = history.CursorOf(&page[len(page)-1])
			}
			if !samePage(got, want) {
				t.Fatalf("paging through device %d in order %d by %d:\n got %v\nwant %v", q.Device, order, q.Limit, brief(got), brief(want))
			}
		}
	}
}

func brief(page []signalbox.Telemetry) []string {
	var out []string
	for _, m := range page {
		out = append(out, fmt.Sprintf("%d@%d", m.Position, m.Time.UnixMicro()))
	}
	return out
}

func TestPageAgreesWithModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 99))
			devices := 1 + rng.IntN(6)
			dir := t.TempDir()
			cfg := history.Config{RowBytes: 200 + rng.IntN(4000), TailEntries: 1 + rng.IntN(100)}
			if seed == 2 {
				cfg = history.Config{Cold: 20 * time.Millisecond} // runs are cut whenever a device is silent
			}
			b := start(t, dir, cfg)
			m := randomHistory(t, b, rng, devices, 300, nil)
			checkPages(t, b, rng, devices, m)

			// The same answers after a restart, wherever the checkpoint was, and chains go on.
			for _, checkpoint := range []signalbox.Position{0, signalbox.Position(rng.IntN(300)), signalbox.Position(len(m))} {
				b = b.reopen(t, dir, cfg, checkpoint)
				checkPages(t, b, rng, devices, m)
				m = randomHistory(t, b, rng, devices, 50, m)
				checkPages(t, b, rng, devices, m)
			}
		})
	}
}

// TestSilentDevices: a device that is silent has nothing in memory after a while, and all of its
// history; what it sends now and then does not stay in a chunk a message.
func TestSilentDevices(t *testing.T) {
	dir, cfg := t.TempDir(), history.Config{Cold: 20 * time.Millisecond}
	b := start(t, dir, cfg)
	var m model
	const devices = 3
	say := func() {
		for d := range devices {
			m = append(m, b.append(t, telemetry(signalbox.DeviceID(d+1), fmt.Sprintf(`{"n":%d}`, len(m))), history.Soon))
		}
		m = append(m, b.append(t, signalbox.Entry{Device: 1, Kind: signalbox.EntryPresence, Body: []byte(`{}`)}, history.Now))
		b.wait(t, b.log.Head())
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		say()
		until(t, "nothing is in memory, and it has no bytes", func() bool {
			return b.log.Stats().Runs.Load() == 0 && b.log.Stats().RunBytes.Load() == 0
		})
		checkPages(t, b, rng, devices, m)
	}
	until(t, "small chunks are merged", func() bool { return b.log.Stats().Merges.Load() > 0 })
	checkPages(t, b, rng, devices, m)
	b = b.reopen(t, dir, cfg, 0)
	checkPages(t, b, rng, devices, m)
	say()
	checkPages(t, b, rng, devices, m)
	if got := b.all(t, 0); len(got) != len(m) {
		t.Errorf("%d entries, want %d", len(got), len(m))
	}
}

// TestNeighboursAreMerged: a question waits for a merge of its own device, and for no other's.
func TestNeighboursAreMerged(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	for d := range 2 {
		b.wait(t, b.append(t, telemetry(signalbox.DeviceID(d+1), `{}`), history.Now).Position)
	}
	ended := b.log.Merging(2)
	for device, waits := range map[signalbox.DeviceID]bool{1: false, 2: true} {
		ctx, cancel := context.WithTimeout(t.Context(), map[bool]time.Duration{true: time.Second, false: patience}[waits])
		page, err := b.log.Page(ctx, history.Query{Device: device, Limit: 1})
		cancel()
		if waits != errors.Is(err, context.DeadlineExceeded) || !waits && len(page) != 1 {
			t.Errorf("device %d: %d messages, %v", device, len(page), err)
		}
	}
	ended()
	if page, err := b.log.Page(t.Context(), history.Query{Device: 2, Limit: 1}); err != nil || len(page) != 1 {
		t.Errorf("after the merge: %d messages, %v", len(page), err)
	}
}

// TestPageWhileWriting holds that questions asked beside a busy log are answered with what
// was committed when they began, at least, and never with a gap.
func TestPageWhileWriting(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{RowBytes: 2 << 10, TailEntries: 1000})
	const n = 20_000
	done := make(chan error, 1)
	go func() {
		for i := range n {
			e := telemetry(signalbox.DeviceID(i%50+1), fmt.Sprintf(`{"n":%d}`, i/50))
			u := history.Soon
			if i%100 == 0 {
				u = history.Now
			}
			if err := b.log.Append(&e, u); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for writing := true; writing; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			writing = false
		default:
		}
		committed := b.log.Committed()
		page, err := b.log.Page(t.Context(), history.Query{Device: 7, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		if committed > 7 && (len(page) == 0 || page[0].Position+50 <= committed) {
			t.Fatalf("committed is %d, the newest of device 7 is %v", committed, brief(page))
		}
		for i := 1; i < len(page); i++ {
			if page[i].Position != page[i-1].Position-50 {
				t.Fatalf("a gap: %v", brief(page))
			}
		}
	}
}

func TestPageRefuses(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	now := time.Now()
	tests := []struct {
		name string
		q    history.Query
		code string
	}{
		{"no limit", history.Query{Device: 1}, "invalid_limit"},
		{"limit too large", history.Query{Device: 1, Limit: history.MaxPage + 1}, "invalid_limit"},
		{"from at to", history.Query{Device: 1, Limit: 1, From: now, To: now}, "invalid_range"},
		{"from after to", history.Query{Device: 1, Limit: 1, From: now.Add(1), To: now}, "invalid_range"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := b.log.Page(t.Context(), tt.q)
			if signalbox.CodeOf(err) != tt.code || signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Errorf("got %v", err)
			}
		})
	}
}

// checkQuestions compares the other ways to ask with the model.
func checkQuestions(t *testing.T, b *bench, rng *rand.Rand, devices int, m model) {
	t.Helper()
	from := signalbox.Position(rng.IntN(len(m)) + 1)
	for i, e := range b.all(t, from) {
		if w := m[int(from)-1+i]; e.Device != w.Device || e.Kind != w.Kind || e.TimeMicros != w.TimeMicros || e.ReceivedMicros != w.ReceivedMicros || string(e.Body) != string(w.Body) {
			t.Fatalf("the scan gives %+v, want %+v", e, w)
		}
	}
	if n := len(b.all(t, 1)); n != len(m) {
		t.Fatalf("the scan gives %d entries of %d", n, len(m))
	}
	checkTimes(t, b, rng, devices, m)
	for device := signalbox.DeviceID(1); int(device) <= devices; device++ {
		all := m.page(history.Query{Device: device, Order: history.OldestFirst, Limit: history.MaxPage})
		for range 20 {
			row, limit := rng.IntN(len(all)+2), 1+rng.IntN(5)
			got, err := b.log.PageAt(t.Context(), device, int64(row), limit)
			if err != nil {
				t.Fatal(err)
			}
			lo := min(row, len(all))
			if want := all[lo:min(lo+limit, len(all))]; !samePage(got, want) {
				t.Fatalf("row %d of device %d:\n got %v\nwant %v", row, device, brief(got), brief(want))
			}
		}
		checkBuckets(t, b, rng, device, all)
		if len(all) > 0 {
			k := rng.IntN(len(all))
			got, ok, err := b.log.AsOf(t.Context(), device, all[k].Time)
			for k+1 < len(all) && all[k+1].Time.Equal(all[k].Time) {
				k++
			}
			if err != nil || !ok || got.Position != all[k].Position {
				t.Fatalf("as of %v: %+v, %v, %v; want %+v", all[k].Time, got, ok, err, all[k])
			}
		}
	}
}

func checkBuckets(t *testing.T, b *bench, rng *rand.Rand, device signalbox.DeviceID, all []signalbox.Telemetry) {
	t.Helper()
	if len(all) < 2 {
		return
	}
	i, j := rng.IntN(len(all)), rng.IntN(len(all))
	q := history.BucketQuery{Device: device, Fields: []string{"n", "x"}, From: all[min(i, j)].Time, To: all[max(i, j)].Time.Add(time.Microsecond), N: 1 + rng.IntN(20)}
	got, err := b.log.Buckets(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]history.Bucket, q.N)
	for _, m := range all {
		if m.Time.Before(q.From) || !m.Time.Before(q.To) {
			continue
		}
		var body struct{ N float64 }
		if err := json.Unmarshal(m.Object, &body); err != nil {
			t.Fatal(err)
		}
		w := &want[m.Time.Sub(q.From)/q.Width()]
		if w.Count == 0 {
			w.Min, w.Max = body.N, body.N
		}
		w.Count++
		w.Min, w.Max, w.Sum, w.Last = min(w.Min, body.N), max(w.Max, body.N), w.Sum+body.N, body.N
	}
	for k := range want {
		g, w := got[0][k], want[k]
		if g.Count != w.Count || g.Count > 0 && (g.Min != w.Min || g.Max != w.Max || g.Sum != w.Sum || g.Last != w.Last) || got[1][k].Count != 0 {
			t.Fatalf("bucket %d of %d: %+v, want %+v", k, q.N, g, w)
		}
	}
}

// checkTimes compares a scan in time order with the model.
func checkTimes(t *testing.T, b *bench, rng *rand.Rand, devices int, m model) {
	t.Helper()
	for range 10 {
		r := randomQuery(rng, devices, m)
		q := history.ScanQuery{From: r.From, To: r.To}
		if rng.IntN(2) == 0 {
			q.Devices = []signalbox.DeviceID{}
			for d := range devices {
				if rng.IntN(2) == 0 {
					q.Devices = append(q.Devices, signalbox.DeviceID(d+1))
				}
			}
		}
		want := slices.DeleteFunc(slices.Clone(m), func(e signalbox.Entry) bool {
			return e.Kind != signalbox.EntryTelemetry || !q.From.IsZero() && e.TimeMicros < q.From.UnixMicro() || !q.To.IsZero() && e.TimeMicros >= q.To.UnixMicro() ||
				q.Devices != nil && !slices.Contains(q.Devices, e.Device)
		})
		slices.SortFunc(want, func(a, b signalbox.Entry) int {
			return cmp.Or(cmp.Compare(a.TimeMicros, b.TimeMicros), cmp.Compare(a.Position, b.Position))
		})
		var got []signalbox.Entry
		err := b.log.ScanTime(t.Context(), q, func(e *signalbox.Entry) error {
			kept := *e
			kept.Body = slices.Clone(e.Body)
			got = append(got, kept)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(x, y signalbox.Entry) bool {
			return x.Position == y.Position && x.Device == y.Device && string(x.Body) == string(y.Body)
		}) {
			t.Fatalf("%+v gives %d entries, want %d", q, len(got), len(want))
		}
	}
}

// TestRetention drops what is old, and what is too much, and nothing else.
func TestRetention(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{TailEntries: 64})
	rng := rand.New(rand.NewPCG(7, 7))
	m := randomHistory(t, b, rng, 3, 2000, nil)
	all := m.page(history.Query{Device: 1, Order: history.OldestFirst, Limit: history.MaxPage})
	cut := all[len(all)/2].Time
	var each history.Dropped
	dropped, err := b.log.DropBefore(t.Context(), func(d signalbox.DeviceID) time.Time {
		if d == 1 {
			return cut
		}
		return time.Time{}
	}, func(device signalbox.DeviceID, d history.Dropped) {
		if device != 1 {
			t.Errorf("%+v of device %d", d, device)
		}
		each = history.Dropped{Chunks: each.Chunks + d.Chunks, Messages: each.Messages + d.Messages, Bytes: each.Bytes + d.Bytes}
	})
	if err != nil || dropped.Messages == 0 || dropped.Bytes == 0 || each != dropped {
		t.Fatalf("%+v, %v", dropped, err)
	}
	page, err := b.log.Page(t.Context(), history.Query{Device: 1, Order: history.OldestFirst, Limit: history.MaxPage})
	if err != nil || len(page) != len(all)-int(dropped.Messages) {
		t.Fatalf("%d messages of %d are left after %+v, %v", len(page), len(all), dropped, err)
	}
	kept := map[signalbox.Position]bool{}
	for _, m := range page {
		kept[m.Position] = true
	}
	for _, m := range all {
		if !m.Time.Before(cut) && !kept[m.Position] {
			t.Errorf("%v of %v is gone, though it is not before %v", m.Position, m.Time, cut)
		}
	}
	for device := signalbox.DeviceID(2); device <= 3; device++ {
		q := history.Query{Device: device, Limit: history.MaxPage}
		if page, err := b.log.Page(t.Context(), q); err != nil || !samePage(page, m.page(q)) {
			t.Errorf("device %d lost something: %v", device, err)
		}
	}
	before := m.page(history.Query{Device: 2, Limit: history.MaxPage})
	if dropped, err = b.log.DropOver(t.Context(), 2, 2000, nil); err != nil || dropped.Messages == 0 {
		t.Fatalf("%+v, %v", dropped, err)
	}
	if page, err = b.log.Page(t.Context(), history.Query{Device: 2, Limit: history.MaxPage}); err != nil || len(page) != len(before)-int(dropped.Messages) {
		t.Errorf("%d of %d messages are left after %+v, %v", len(page), len(before), dropped, err)
	}
	for round := 0; ; round++ { // what was cut meanwhile is on disk only now
		again, err := b.log.DropOver(t.Context(), 2, 2000, nil)
		if err != nil || round == 20 {
			t.Fatalf("it drops again and again: %+v, %v", again, err)
		}
		if again == (history.Dropped{}) {
			break
		}
	}
}
