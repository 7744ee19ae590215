package transfer_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"signalbox/internal/transfer"
)

func gzipped(t testing.TB, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write([]byte(text))
	must(t, err)
	must(t, z.Close())
	return out.Bytes()
}

// rows reads a file and writes down what it gave.
func rows(t testing.TB, file string, o transfer.ReadOptions) string {
	t.Helper()
	src, err := transfer.Open(strings.NewReader(file), o)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	defer func() { must(t, src.Close()) }()
	var out strings.Builder
	var row transfer.Row
	for {
		err := src.Next(&row)
		if errors.Is(err, io.EOF) {
			for _, s := range src.Shifts() {
				fmt.Fprintf(&out, "%s %s %s %d\n", s.Kind, s.From, s.To, s.Rows)
			}
			return out.String()
		}
		if why, ok := errors.AsType[*transfer.Refusal](err); ok {
			fmt.Fprintf(&out, "%d refused: %s\n", why.Line, why.Reason)
			continue
		}
		if err != nil {
			return out.String() + "error: " + err.Error() + "\n"
		}
		fmt.Fprintf(&out, "%d %s %s %s\n", row.Line, row.Device, time.UnixMicro(row.Time).UTC().Format("2006-01-02T15:04:05.999999"), row.Object)
	}
}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := transfer.LoadZone(name)
	must(t, err)
	return z
}

func TestReadCSV(t *testing.T) {
	moscow := zone(t, "Europe/Moscow")
	tests := []struct {
		name, file string
		o          transfer.ReadOptions
		want       string
	}{
		{
			"own columns", "Date;temp;humidity;note\r\n2024-01-01 12:00:00;25.80;007;ok\r\n2024-01-01 12:00;-1e3;;\"a;\"\"b\"\r\n",
			transfer.ReadOptions{Device: "st", TimeColumn: "date", Zone: moscow},
			"2 st 2024-01-01T09:00:00 {\"temp\":25.80,\"humidity\":\"007\",\"note\":\"ok\"}\n3 st 2024-01-01T09:00:00 {\"temp\":-1e3,\"note\":\"a;\\\"b\"}\n",
		},
		{
			"times", "time,device,x\n2024-01-01T12:00:00.123456Z,a,1\n2024-01-01T12:00:00+03:00,a,1\n1704110400000,a,1\n2024-01-01,a,1\n 2024-01-01T12:00:00.5 ,a,1\n",
			transfer.ReadOptions{Zone: time.UTC},
			"2 a 2024-01-01T12:00:00.123456 {\"x\":1}\n3 a 2024-01-01T09:00:00 {\"x\":1}\n4 a 2024-01-01T12:00:00 {\"x\":1}\n5 a 2024-01-01T00:00:00 {\"x\":1}\n6 a 2024-01-01T12:00:00.5 {\"x\":1}\n",
		},
		{
			"rows that do not fit", "time,device,x\n2024-01-01,a\n2024-01-01,a,1,2\n,a,1\n2024-01-01,,1\n\n2024-01-01,a,\xff\n2024-01-01,a,true\n",
			transfer.ReadOptions{Zone: time.UTC},
			"2 refused: the row has no values\n3 refused: the row has 4 cells, but there are 3 columns\n4 refused: \"\" is no time; allowed are RFC 3339 (2024-05-01T12:00:00Z), a date and time (2024-05-01 12:00:00) and Unix milliseconds\n" +
				"5 refused: no device is named\n7 refused: the column x is not valid UTF-8; save the file as UTF-8\n8 a 2024-01-01T00:00:00 {\"x\":true}\n",
		},
		{
			"several lines in a cell", "time,device,x\n2024-01-01,a,\"1\n2\"\n2024-01-01,a,2\n",
			transfer.ReadOptions{Zone: time.UTC},
			"2 a 2024-01-01T00:00:00 {\"x\":\"1\\n2\"}\n4 a 2024-01-01T00:00:00 {\"x\":2}\n",
		},
		{
			"clocks put forward and back", "time,x\n2023-03-26 01:59:59,1\n2023-03-26 02:30:00,2\n2023-03-26 03:00:00,3\n2023-10-29 02:00:00,4\n2023-10-29 02:59:59,5\n2023-10-29 03:00:00,6\n2023-10-29 01:59:59,7\n",
			transfer.ReadOptions{Device: "a", Zone: zone(t, "Europe/Berlin")},
			"2 a 2023-03-26T00:59:59 {\"x\":1}\n3 a 2023-03-26T01:30:00 {\"x\":2}\n4 a 2023-03-26T01:00:00 {\"x\":3}\n5 a 2023-10-29T00:00:00 {\"x\":4}\n6 a 2023-10-29T00:59:59 {\"x\":5}\n7 a 2023-10-29T02:00:00 {\"x\":6}\n8 a 2023-10-28T23:59:59 {\"x\":7}\n" +
				"gap 2023-03-26 02:00:00 2023-03-26 03:00:00 1\noverlap 2023-10-29 02:00:00 2023-10-29 03:00:00 2\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := rows(t, tt.file, tt.o); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestLocalTimes holds the reading of local times to package time, for each hour of years in
// zones that do odd things.
func TestLocalTimes(t *testing.T) {
	for _, name := range []string{"Europe/Moscow", "Europe/Berlin", "Asia/Shanghai", "America/St_Johns", "Australia/Lord_Howe", "Asia/Tehran", "Pacific/Apia", "UTC", "Africa/Casablanca"} {
		t.Run(name, func(t *testing.T) {
			z := zone(t, name)
			var file strings.Builder
			var want []int64
			file.WriteString("time,x\n")
			for at := time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2016; at = at.Add(time.Hour) {
				local := at.In(z)
				file.WriteString(local.Format("2006-01-02 15:04:05") + ",1\n")
				want = append(want, at.UnixMicro())
			}
			src, err := transfer.Open(strings.NewReader(file.String()), transfer.ReadOptions{Device: "a", Zone: z})
			must(t, err)
			var row transfer.Row
			differ := map[int64]int{}
			for _, at := range want {
				must(t, src.Next(&row))
				if row.Time != at {
					differ[at-row.Time]++ // the second one of an overlap
				}
			}
			seconds := int64(0)
			for d, n := range differ {
				if d != 3600e6 && d != 1800e6 {
					t.Errorf("%d times are off by %d µs", n, d)
				}
				seconds += int64(n)
			}
			for _, s := range src.Shifts() {
				if s.Kind != "overlap" {
					t.Errorf("no time was in a gap, but %+v", s)
				}
			}
			if z != time.UTC && seconds > 7*2+2 {
				t.Errorf("%d times were doubtful", seconds)
			}
		})
	}
}

const dump = `/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: mtom
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
DROP TABLE IF EXISTS ` + "`notes`" + `;
CREATE TABLE ` + "`notes`" + ` (
  ` + "`id`" + ` int(11) NOT NULL,
  ` + "`text`" + ` text DEFAULT 'INSERT INTO temp VALUES (1,2);',
  PRIMARY KEY (` + "`id`" + `)
) ENGINE=InnoDB COMMENT='a;b';
INSERT INTO ` + "`notes`" + ` VALUES (1,'it''s; \'(quoted)\' -- no comment'),(2,"(');");
CREATE TABLE ` + "`temp`" + ` (
  ` + "`time`" + ` datetime NOT NULL,
  ` + "`temp`" + ` float NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES ` + "`temp`" + ` WRITE;
/*!40000 ALTER TABLE ` + "`temp`" + ` DISABLE KEYS */;
INSERT INTO ` + "`temp`" + ` VALUES
('2023-07-10 12:00:00',25.8),
('2023-07-10 12:00:00',25.8),
('2023-07-10 12:00:02',-3),('2023-07-10 12:00:04.5',1e-7);
INSERT  IGNORE INTO mtom.temp (temp, ` + "`time`" + `) VALUE (20,'2023-07-10 12:00:06');
INSERT INTO ` + "`temp`" + ` VALUES ('0000-00-00 00:00:00',1),('2023-07-10 12:00:08',NULL),(NOW(),1),('2023-07-10 12:00:10'),(_utf8mb4'2023-07-10 12:00:12',+2.50) ON DUPLICATE KEY UPDATE temp=1;
DELIMITER ;;
CREATE TRIGGER x BEFORE INSERT ON temp FOR EACH ROW BEGIN INSERT INTO temp VALUES (1,2); END ;;
DELIMITER ;
# the end
-- Dump completed on 2024-01-01 12:00:00`

func TestReadDump(t *testing.T) {
	want := `20 env01 2023-07-10T09:00:00 {"t":25.8}
21 env01 2023-07-10T09:00:00 {"t":25.8}
22 env01 2023-07-10T09:00:02 {"t":-3}
22 env01 2023-07-10T09:00:04.5 {"t":1e-7}
`
	after := `24 refused: "0000-00-00 00:00:00" is no time; allowed are RFC 3339 (2024-05-01T12:00:00Z), a date and time (2024-05-01 12:00:00) and Unix milliseconds
24 refused: t is NULL or no plain value
24 refused: the time is no plain value
24 refused: the row has 1 values, but there are 2 columns
24 env01 2023-07-10T09:00:12 {"t":2.50}
`
	o := transfer.ReadOptions{Device: "env01", Zone: zone(t, "Europe/Moscow"), Field: "t"}
	text := strings.Replace(dump, "INSERT  IGNORE INTO mtom.temp", "INSERT  IGNORE INTO temp", 1)
	if got, want := rows(t, text, o), want+"23 env01 2023-07-10T09:00:06 {\"t\":20}\n"+after; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := rows(t, dump, o); !strings.Contains(got, `several tables temp, in the databases "" and "mtom"`) {
		t.Errorf("got\n%s", got)
	}
	o.Table = "mtom.temp"
	if got := rows(t, "USE `mtom`;\n"+dump, o); !strings.Contains(got, "24 env01") {
		t.Errorf("got\n%s", got)
	}
	o.Table, o.Field = "notes", "text"
	if got := rows(t, dump, o); !strings.Contains(got, "has no columns time and text; it has id, text") {
		t.Errorf("got\n%s", got)
	}
}

// endless checks that a reader gives what it must of any bytes, and comes to an end.
func endless(t *testing.T, file []byte, o transfer.ReadOptions) {
	t.Helper()
	o.Zone = time.UTC
	src, err := transfer.Open(bytes.NewReader(file), o)
	if err != nil {
		return
	}
	defer func() { must(t, src.Close()) }()
	var row transfer.Row
	for range 2*len(file) + 10 {
		err := src.Next(&row)
		if _, ok := errors.AsType[*transfer.Refusal](err); ok {
			continue
		}
		if err != nil {
			return
		}
		if row.Device == "" || len(row.Object) < 2 || row.Object[0] != '{' && strings.TrimLeft(string(row.Object), " \t\r\n")[0] != '{' || row.Line < 1 {
			t.Fatalf("row %+v", row)
		}
	}
	t.Fatal("no end")
}

func FuzzReadNDJSON(f *testing.F) {
	f.Add([]byte(line("a", base, `{"x":1}`) + "\n{}\n"))
	f.Fuzz(func(t *testing.T, file []byte) { endless(t, file, transfer.ReadOptions{Format: transfer.NDJSON}) })
}

func FuzzReadCSV(f *testing.F) {
	f.Add([]byte("time;device;x\n2024-01-01 12:00;a;\"1\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		endless(t, file, transfer.ReadOptions{Format: transfer.CSV, Device: "d"})
	})
}

func FuzzReadDump(f *testing.F) {
	f.Add([]byte(dump))
	f.Fuzz(func(t *testing.T, file []byte) {
		endless(t, file, transfer.ReadOptions{Format: transfer.Dump, Device: "d"})
	})
}

func FuzzReadParquet(f *testing.F) {
	h := newHub(f, "a")
	h.keep(f, "a", base, `{"x":1,"y":"z"}`)
	f.Add(h.export(f, transfer.ExportQuery{Format: transfer.Parquet, Fields: []string{"x", "y"}}))
	f.Fuzz(func(t *testing.T, file []byte) {
		endless(t, file, transfer.ReadOptions{Format: transfer.Parquet, Device: "d"})
	})
}
