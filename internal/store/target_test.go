package store_test

import (
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/store"
)

func TestCheckURL(t *testing.T) {
	tests := []struct{ url, says string }{ // "" for a good one
		{"mysql://hub:s3cret@db.example:3306/hub", ""},
		{"mariadb://hub@[::1]/hub?tls=true&ca=/etc/ca.pem", ""},
		{"mysql://hub:s3cret%2F%40@/hub?socket=/run/mysqld/mysqld.sock", ""},
		{"postgres://hub:s3cret@db.example/hub?sslmode=verify-full&sslrootcert=/etc/ca.pem", ""},
		{"postgresql://hub@:5433/hub?host=/run/postgresql", ""},
		{"", `begins with ""`},
		{"sqlite:///x", `begins with "sqlite"`},
		{"mysql://hub:s3cret/@db/hub", "percent-encoded"},
		{"mysql://hub:s3cret%zz@db/hub", "percent-encoded"},
		{"mysql://hub:s3cret#x@db/hub", "percent-encoded"},
		{"mysql://db/hub", "names no user"},
		{"mysql://hub:s3cret@db", `names the database ""`},
		{"mysql://hub:s3cret@db/a/b", `names the database "a/b"`},
		{"mysql://hub:s3cret@db/hub#x", "%23"},
		{"mysql://hub:s3cret@/hub", "neither a host nor"},
		{"mysql://hub:s3cret@db/hub?socket=/x", "instead of a host"},
		{"mysql://hub:s3cret@/hub?socket=x", "absolute"},
		{"mysql://hub:s3cret@db/hub?tls=maybe", "tls=maybe; allowed is false, preferred, skip-verify, true"},
		{"mysql://hub:s3cret@db/hub?sslmode=require", `has the option "sslmode"; MariaDB knows ca, socket, tls`},
		{"postgres://hub:s3cret@db/hub?options=-cfsync%3Doff", `has the option "options"`},
		{"postgres://hub:s3cret@db/hub?a;b", "a=b&c=d"},
	}
	for _, tt := range tests {
		err := store.CheckURL(tt.url)
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("%s: %v", tt.url, err)
		case tt.says == "":
		case err == nil || signalbox.KindOf(err) != signalbox.KindInvalid || !strings.Contains(err.Error(), tt.says):
			t.Errorf("%s: %v, want %q", tt.url, err, tt.says)
		case strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the error tells the password: %v", tt.url, err)
		}
		if shown := store.Redact(tt.url); strings.Contains(shown, "s3cret") {
			t.Errorf("%s is shown as %s", tt.url, shown)
		}
	}
}

func TestRedact(t *testing.T) {
	const hidden = "(not a usable URL)"
	for url, want := range map[string]string{
		"":                                      "",
		"mysql://hub:s3cret@db.example/hub":     "mysql://hub:***@db.example/hub",
		"postgres://hub@db/hub?sslmode=disable": "postgres://hub@db/hub?sslmode=disable",
		"postgres://a%40b:x%2Fy@:1/hub?host=/run": "postgres://a%40b:***@:1/hub?host=/run",
		"mysql://hub:@db/hub":                     "mysql://hub:***@db/hub",
		"postgres://hub:s3cret@d b/%zz":           hidden,
		"s3cret":                                  hidden,
		"mysql:hub:s3cret@db/hub":                 hidden,
		"mysql://hub:12/s3cret@db/hub":            hidden,
		"postgres://hub@db/hub?password=s3cret":   hidden,
	} {
		if got := store.Redact(url); got != want {
			t.Errorf("%q is shown as %q, want %q", url, got, want)
		}
	}
}

func TestTranslations(t *testing.T) {
	for in, want := range map[string]string{
		`SELECT ?, '?''?', "a?" FROM x -- why?` + "\n" + `WHERE a = ? /* ? */ AND b=?`: `SELECT $1, '?''?', "a?" FROM x -- why?` + "\n" + `WHERE a = $2 /* ? */ AND b=$3`,
		`SELECT 'open ?`: `SELECT 'open ?`,
		`--?`:            `--?`,
	} {
		if got := store.Numbered(in); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
	const two = "(SELECT 1 UNION ALL SELECT 2)"
	for in, want := range map[string]string{
		`INSERT INTO a (b, c) VALUES (?, ?) ON CONFLICT (b) DO UPDATE SET c = excluded.c + a.c`: `INSERT INTO a (b, c) VALUES (?, ?) ON DUPLICATE KEY UPDATE a.b = IF(a.b = VALUES(b), a.b, ` + two + `), c = VALUES(c) + a.c`,
		"insert into a (b, c)\nVALUES (?, ?) on conflict(b , c)  do\nnothing":                   "insert into a (b, c)\nVALUES (?, ?) ON DUPLICATE KEY UPDATE a.b = IF(a.b = VALUES(b) AND a.c = VALUES(c), a.b, " + two + ")",
		`SELECT excluded.c FROM excluded`:                                                       `SELECT excluded.c FROM excluded`,
	} {
		if got := store.Upserts(in); got != want {
			t.Errorf("%s became\n%s, want\n%s", in, got, want)
		}
	}
}
