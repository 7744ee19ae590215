package plain_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/history/plain"
	"signalbox/internal/store/storetest"
)

// BenchmarkFill fills the table from a log that is there already, b.N messages of 1,000 devices, a message a minute each.
func BenchmarkFill(b *testing.B) {
	const devices = 1000
	for _, kind := range append([]storetest.Kind{storetest.SQLite}, storetest.Servers()...) {
		b.Run(string(kind), func(b *testing.B) {
			db := storetest.New(b, kind)
			st := db.Open(b)
			log, err := history.Open(b.Context(), history.Config{}, st.Store)
			if err != nil {
				b.Fatal(err)
			}
			table, err := plain.Open(plain.Config{Every: time.Millisecond}, st.Store, log)
			if err != nil {
				b.Fatal(err)
			}
			defer table.Close()
			ctx, stop := context.WithCancel(b.Context())
			done := make(chan error, 2)
			defer func() { <-done; <-done }()
			defer stop()
			go func() { done <- log.Run(ctx, time.Second) }()
			began := time.Now().Add(-time.Duration(b.N/devices+1) * time.Minute)
			bytes := 0
			for i := range b.N {
				e := signalbox.Entry{
					Kind: signalbox.EntryImported, Device: signalbox.DeviceID(i%devices + 1), TimeMicros: began.Add(time.Duration(i/devices)*time.Minute + time.Duration(i%devices)*time.Millisecond).UnixMicro(),
					Body: fmt.Appendf(nil, `{"type":"telemetry","status":"ready","servo1":%d,"servo2":%d,"button1":"released","button2":"released"}`, i%181, i/7%181),
				}
				bytes += len(e.Body)
				for log.Append(&e, history.Soon) != nil {
					if err := log.Wait(ctx, log.Head()); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := log.Wait(ctx, log.Head()); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			go func() { done <- table.Run(ctx) }()
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for table.Through() < log.Head() {
				<-look.C
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(bytes)/float64(b.N), "payload-B/row")
			b.ReportMetric(float64(size(b, db))/float64(b.N), "disk-B/row")
		})
	}
}

// size is what the table takes.
func size(b *testing.B, db *storetest.Database) (n int64) {
	b.Helper()
	query := map[storetest.Kind]string{
		storetest.SQLite:     `SELECT SUM(pgsize) FROM dbstat WHERE name = 'telemetry'`,
		storetest.MariaDB:    `SELECT SUM(data_length + index_length) FROM information_schema.partitions WHERE table_schema = DATABASE() AND table_name = 'telemetry'`,
		storetest.PostgreSQL: `SELECT SUM(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'telemetry'::regclass`,
	}[db.Kind]
	if db.Kind == storetest.MariaDB {
		if _, err := db.SQL(b).ExecContext(b.Context(), `ANALYZE TABLE telemetry`); err != nil {
			b.Fatal(err)
		}
	}
	if err := db.SQL(b).QueryRowContext(b.Context(), query).Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}
