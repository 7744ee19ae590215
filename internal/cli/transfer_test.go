package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/client"
	"signalbox/internal/store/storetest"
)

func (s *station) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// objects gives the telemetry of all devices without its times of receipt.
func (s *station) objects(args ...string) string {
	s.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(s.run(append([]string{"export", "-", "--format", "ndjson"}, args...)...).want(s.t, ExitOK).out) {
		before, after, _ := strings.Cut(line, `"received":"`)
		_, after, _ = strings.Cut(after, `",`)
		out.WriteString(before + after)
	}
	return out.String()
}

const threeRows = `{"device":"esp01","time":"2024-03-01T12:00:00.000001Z","object":{"t":15.0,"s":"90"}}
{"device":"esp01","time":"2024-03-01T12:00:00.000001Z","object":{"t":15.0,"s":"90"}}
{"device":"esp02","time":"2024-03-01T12:00:01.000000Z","object":{"t":16}}
`

func TestExportAndImport(t *testing.T) {
	from := newStation(t)
	file := from.write("three.ndjson", threeRows)
	report := decode[client.TelemetryReport](t, from.run("import", file, "--create", "--type", "box", "--json").want(t, ExitOK))
	if report.Read != 3 || report.Added != 3 || len(report.Created) != 2 || report.Format != "ndjson" {
		t.Fatalf("report %+v", report)
	}
	from.run("import", file).want(t, ExitOK, "read 3, added 0, already there 3, refused 0")
	if got := from.objects(); got != threeRows {
		t.Fatalf("got\n%s", got)
	}
	if got := from.objects("--device", "esp02"); got != threeRows[strings.Index(threeRows, `{"device":"esp02"`):] {
		t.Errorf("one device:\n%s", got)
	}
	dir := t.TempDir()
	for _, name := range []string{"a.ndjson", "a.ndjson.gz", "a.parquet", "b.csv"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			from.run("export", path, "--type", "box").want(t, ExitOK, "MiB")
			from.run("export", path).want(t, ExitUsage, "exists already; --force")
			from.run("export", path, "--force").want(t, ExitOK)
			to := newStation(t)
			to.run("device", "add", "esp01").want(t, ExitOK)
			to.run("import", path).want(t, ExitFailure, "added 2, already there 0, refused 1", `there is no device "esp02"`)
			to.run("import", path, "--create", "--type", "box").want(t, ExitOK, "added 1, already there 2", "made 1 devices")
			want := threeRows
			if strings.HasSuffix(name, ".csv") { // which does not know that 90 was a text, and goes by names
				want = strings.ReplaceAll(want, `{"t":15.0,"s":"90"}`, `{"s":90,"t":15.0}`)
			}
			if got := to.objects(); got != want {
				t.Errorf("got\n%s", got)
			}
		})
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 4 {
		t.Errorf("files that are left: %v, %v", left, err)
	}
	zipped := from.run("export", "-", "--format", "csv", "--gzip", "--fields", "t").want(t, ExitOK).out
	z, err := gzip.NewReader(strings.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil || !strings.HasPrefix(string(plain), "time,received,device,t\n2024-03-01T12:00:00.000001Z,") {
		t.Errorf("%v: %s", err, plain)
	}
}

func TestExportRefuses(t *testing.T) {
	s := newStation(t)
	s.run("export", "x.ndjson").want(t, ExitUnavailable, "there are no data")
	s.run("device", "add", "esp01").want(t, ExitOK)
	dir := t.TempDir()
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no format", []string{filepath.Join(dir, "x")}, ExitUsage, "Give --format"},
		{"a wrong format", []string{"-", "--format", "xml"}, ExitUsage, "allowed are csv, ndjson and parquet"},
		{"no such device", []string{filepath.Join(dir, "x.csv"), "--device", "esp09"}, ExitNotFound, "esp09"},
		{"a folder", []string{dir, "--format", "csv"}, ExitUsage, "is no file"},
		{"no folder", []string{filepath.Join(dir, "none", "x.csv")}, ExitUsage, "cannot be written"},
		{"times", []string{filepath.Join(dir, "x.csv"), "--from", "1h", "--to", "2h"}, ExitUsage, "is not before"},
		{"fields of objects", []string{filepath.Join(dir, "x.ndjson"), "--fields", "a"}, ExitUsage, "ndjson has none"},
		{"JSON", []string{filepath.Join(dir, "x.ndjson"), "--json"}, ExitUsage, "has no meaning"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.run(append([]string{"export"}, tt.args...)...).want(t, tt.code, tt.want)
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files that are left: %v, %v", left, err)
	}
}

func TestImportTelemetryFile(t *testing.T) {
	s := newStation(t)
	s.run("device", "add", "st01").want(t, ExitOK)
	own := s.write("own.csv", "date;temp\n2024-03-31 01:30:00;1.50\n2024-03-31 02:30:00;2\n2024-10-27 02:30:00;3\nx;4\n2999-01-01;5\n")
	flags := []string{"import", own, "--device", "st01", "--time-column", "date", "--zone", "Europe/Berlin"}
	r := s.run(flags...).want(t, ExitFailure, "read 5, added 3, already there 0, refused 2", "5 ", `"x" is no time`, "6 ", "in the future",
		"times of Europe/Berlin", "1 rows have times from 2024-03-31 02:00:00 to 2024-03-31 03:00:00, which never were", "1 rows have times from 2024-10-27 02:00:00")
	if strings.Contains(r.err, "See «") {
		t.Errorf("said: %s", r.err)
	}
	s.run(flags...).want(t, ExitFailure, "added 0, already there 3")
	want := `{"device":"st01","time":"2024-03-31T00:30:00.000000Z","object":{"temp":1.50}}
{"device":"st01","time":"2024-03-31T01:30:00.000000Z","object":{"temp":2}}
{"device":"st01","time":"2024-10-27T00:30:00.000000Z","object":{"temp":3}}
`
	if got := s.objects(); got != want {
		t.Errorf("got\n%s", got)
	}
	s.feed("time,temp\n2024-01-01T00:00:00Z,1\n", "import", "-", "--telemetry", "--device", "st01").want(t, ExitOK, "added 1")
	s.feed(threeRows, "import", "-", "--create", "--type", "box").want(t, ExitOK, "added 3")
	s.feed("name,type\nnew1,box\n", "import", "-").want(t, ExitOK, "created 1")
	tests := []struct {
		name string
		file string
		args []string
		want string
	}{
		{"broken CSV", "time,device,x\n2024-01-01,st01,\"1\n", nil, "f.csv: line 2: this is not CSV"},
		{"no columns", "a,b\n1,2\n", []string{"--telemetry"}, `f.csv: line 1: there is no column "time"`},
		{"a zone", "time,device,x\n", []string{"--zone", "Mars"}, `no time zone "Mars"`},
		{"a format", "time,device,x\n", []string{"--format", "xml"}, "allowed are csv, ndjson, parquet and dump"},
		{"a type alone", "time,device,x\n", []string{"--type", "box"}, "needs --create"},
		{"create alone", "time,device,x\n", []string{"--create"}, "needs --type"},
		{"a dump", "-- MySQL dump\nINSERT INTO x VALUES (1);\n", []string{"--device", "st01"}, "no rows of a table temp; it holds x"},
		{"a broken address", "", []string{"--b4", "mysql://u:secret@/"}, "leave "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.run(append([]string{"import", s.write("f.csv", tt.file)}, tt.args...)...).want(t, ExitUsage, tt.want)
		})
	}
	s.run("import").want(t, ExitUsage, "which file?")
	s.run("import", "--b4", "mysql://127.0.0.1/mtom").want(t, ExitUsage, "needs --device")
	if r := s.run("import", "--b4", "postgres://u:secret@h/d", "--device", "st01").want(t, ExitUsage, "mysql://"); strings.Contains(r.err, "secret") {
		t.Errorf("said: %s", r.err)
	}
	s.run("import", "--b4", "mysql://u:secret@127.0.0.1:1/mtom", "--device", "st01").want(t, ExitUnavailable, "127.0.0.1:1 does not answer")
}

// TestB4 takes the table of the M2M original from a real server, and from what the server's
// own program dumps.
func TestB4(t *testing.T) {
	db := storetest.New(t, storetest.MariaDB)
	pool := db.SQL(t)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := pool.ExecContext(context.Background(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE temp (time DATETIME NOT NULL, temp FLOAT NOT NULL)")
	exec("CREATE TABLE other (a TEXT)")
	exec("INSERT INTO other VALUES (?)", "'); INSERT INTO `temp` VALUES ('2020-01-01 00:00:00',1);\n\\'")
	for i := range 2000 {
		exec("INSERT INTO temp VALUES (?, ?)", time.Date(2023, 7, 10, 12, 0, 2*i, 0, time.UTC).Format("2006-01-02 15:04:05"), 20+float64(i%100)/10)
	}
	exec("INSERT INTO temp VALUES ('2023-07-10 12:00:00', 25.8), ('2023-07-10 12:00:00', 25.8), ('2023-07-10 12:00:00', 25), ('2023-07-10 12:00:00', -0.1), ('2023-07-10 12:00:00', 1e-20), ('2023-07-10 12:00:00', 1e20)")

	live := newStation(t)
	flags := []string{"import", "--b4", db.URL(), "--device", "env01", "--create", "--type", "sensor", "--zone", "Europe/Moscow"}
	live.run(flags...).want(t, ExitOK, "read 2006, added 2006, already there 0, refused 0", "Europe/Moscow")
	live.run(flags...).want(t, ExitOK, "read 2006, added 0, already there 2006")
	got := live.objects()
	for _, want := range []string{
		`{"device":"env01","time":"2023-07-10T09:00:00.000000Z","object":{"temp":20}}
{"device":"env01","time":"2023-07-10T09:00:00.000000Z","object":{"temp":25.8}}
{"device":"env01","time":"2023-07-10T09:00:00.000000Z","object":{"temp":25.8}}
{"device":"env01","time":"2023-07-10T09:00:00.000000Z","object":{"temp":25}}
{"device":"env01","time":"2023-07-10T09:00:00.000000Z","object":{"temp":-0.1}}
`, `"object":{"temp":1e-20}}`, `"time":"2023-07-10T10:06:38.000000Z","object":{"temp":29.9}}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no\n%s\nin\n%.1000s", want, got)
		}
	}
	live.run("import", "--b4", db.URL(), "--device", "env01", "--table", "none").want(t, ExitFailure, "none")
	live.run("import", "--b4", db.URL(), "--device", "env01", "--table", "other").want(t, ExitFailure, "time")

	dumped := newStation(t)
	text := dumpOf(t, db)
	file := dumped.write("mtom.sql", text)
	dumped.run("device", "add", "env01").want(t, ExitOK)
	dumped.run("import", file, "--device", "env01", "--zone", "Europe/Moscow").want(t, ExitOK, "read 2006, added 2006, already there 0, refused 0")
	dumped.run("import", "--b4", db.URL(), "--device", "env01", "--zone", "Europe/Moscow").want(t, ExitOK, "added 0, already there 2006")
	if other := dumped.objects(); other != got {
		t.Error("the dump and the server do not agree")
	}
	dumped.run("import", dumped.write("half.sql", text[:len(text)/2]), "--device", "env01").want(t, ExitUsage, "half.sql: line ", "ends in the middle")
}

// dumpOf dumps a database with the server's own program where it is installed, and writes the
// same otherwise.
func dumpOf(t *testing.T, db *storetest.Database) string {
	t.Helper()
	for _, name := range []string{"mariadb-dump", "mysqldump"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		host, port, _ := strings.Cut(db.Server.Addr(), ":")
		_, database, _ := strings.Cut(strings.TrimPrefix(db.URL(), "mysql://"), "/")
		cmd := exec.CommandContext(t.Context(), path, "--no-defaults", "--host="+host, "--port="+port, "--user="+storetest.User, "--protocol=tcp", "--skip-ssl", database) //nolint:gosec // a test
		cmd.Env = append(os.Environ(), "MYSQL_PWD="+storetest.Password)
		var out, fault bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &fault
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, fault.String())
		}
		t.Logf("dumped by %s, %d bytes", path, out.Len())
		return out.String()
	}
	rows, err := db.SQL(t).QueryContext(t.Context(), "SELECT CONCAT(time), CONCAT(temp) FROM temp")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var out strings.Builder
	out.WriteString("-- MariaDB dump 10.19\nDROP TABLE IF EXISTS `temp`;\nCREATE TABLE `temp` (\n  `time` datetime NOT NULL,\n  `temp` float NOT NULL\n) ENGINE=InnoDB;\nINSERT INTO `temp` VALUES\n")
	for separator := ""; rows.Next(); separator = ",\n" {
		var at, value string
		if err := rows.Scan(&at, &value); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s('%s',%s)", separator, at, value)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out.String() + ";\n"
}

func TestExportBar(t *testing.T) {
	var said bytes.Buffer
	now := time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)
	bar := &exportBar{w: &said, format: "csv", end: now, begun: now.Add(-time.Second), now: func() time.Time { return now }}
	for _, part := range []string{"time,received,device\n2024-01-01T00:00:00Z,x,a\n2024-01-01T01:00", ":00Z,x,a\n2024-01-01T12:00:00Z,x,a\n"} {
		if _, err := bar.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	bar.wipe()
	if text := said.String(); !strings.Contains(text, "[===============               ] up to 2024-01-01") || !strings.HasSuffix(text, "\r\x1b[K") {
		t.Errorf("said %q", text)
	}
}
