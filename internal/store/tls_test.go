package store_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestTLS connects to servers that offer TLS, to one whose certificate is for another host, and
// to one that offers none, with each of the options.
func TestTLS(t *testing.T) { eachServer(t, testTLS) }

func testTLS(t *testing.T, kind storetest.Kind) {
	t.Helper()
	ours, other := storetest.NewAuthority(t), storetest.NewAuthority(t)
	here := storetest.Start(t, kind, ours.Options(t, kind, "127.0.0.1")...).NewDatabase(t)
	elsewhere := storetest.Start(t, kind, ours.Options(t, kind, "db.example.org")...).NewDatabase(t)
	var plain *storetest.Database
	if kind == storetest.MariaDB {
		plain = storetest.Start(t, kind, "--skip-ssl").NewDatabase(t)
	} else {
		plain = storetest.New(t, kind)
	}
	missing := filepath.Join(t.TempDir(), "missing.pem")
	noPEM := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	type test struct {
		name    string
		db      *storetest.Database
		options url.Values
		says    string // of the error, empty for success
		plain   bool   // not encrypted
	}
	tests := map[storetest.Kind][]test{
		storetest.MariaDB: {
			{"verified", here, url.Values{"tls": {"true"}, "ca": {ours.File}}, "", false},
			{"verified, by the file alone", here, url.Values{"ca": {ours.File}}, "", false},
			{"another authority", here, url.Values{"tls": {"true"}, "ca": {other.File}}, "is not trusted", false},
			{"no authority named", here, url.Values{"tls": {"true"}}, "is not trusted", false},
			{"another host", elsewhere, url.Values{"tls": {"true"}, "ca": {ours.File}}, "is not trusted", false},
			{"not verified", elsewhere, url.Values{"tls": {"skip-verify"}}, "", false},
			{"if offered", here, url.Values{"tls": {"preferred"}}, "", false},
			{"if offered, but it is not", plain, url.Values{"tls": {"preferred"}}, "", true},
			{"none", here, url.Values{"tls": {"false"}}, "", true},
			{"nothing said, this machine", here, nil, "", true},
			{"not offered", plain, url.Values{"tls": {"true"}, "ca": {ours.File}}, "offers no TLS", false},
			{"no such file", here, url.Values{"ca": {missing}}, "missing.pem", false},
			{"no PEM", here, url.Values{"ca": {noPEM}}, "no.pem", false},
			{"a contradiction", here, url.Values{"tls": {"false"}, "ca": {ours.File}}, "tls=false", false},
		},
		storetest.PostgreSQL: {
			{"verified", here, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {ours.File}}, "", false},
			{"verified but for the host", elsewhere, url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {ours.File}}, "", false},
			{"another authority", here, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {other.File}}, "is not trusted", false},
			{"another authority, whatever host", here, url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {other.File}}, "is not trusted", false},
			{"no authority named", here, url.Values{"sslmode": {"verify-full"}}, "is not trusted", false},
			{"another host", elsewhere, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {ours.File}}, "is not trusted", false},
			{"verified, by the file alone", here, url.Values{"sslrootcert": {ours.File}}, "", false},
			{"a contradiction", here, url.Values{"sslmode": {"require"}, "sslrootcert": {ours.File}}, "sslmode=require", false},
			{"not verified", elsewhere, url.Values{"sslmode": {"require"}}, "", false},
			{"if offered", here, url.Values{"sslmode": {"prefer"}}, "", false},
			{"if offered, but it is not", plain, url.Values{"sslmode": {"prefer"}}, "", true},
			{"none", here, url.Values{"sslmode": {"disable"}}, "", true},
			{"nothing said, this machine", here, nil, "", true},
			{"not offered", plain, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {ours.File}}, "offers no TLS", false},
			{"no such file", here, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {missing}}, "missing.pem", false},
			{"no PEM", here, url.Values{"sslmode": {"verify-full"}, "sslrootcert": {noPEM}}, "no.pem", false},
		},
	}
	for _, tt := range tests[kind] {
		t.Run(tt.name, func(t *testing.T) {
			cfg := store.Config{URL: tt.db.URL() + "?" + tt.options.Encode(), ConnectTimeout: patience}
			st, err := store.Open(t.Context(), cfg)
			if err == nil {
				defer func() {
					if err := st.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			if tt.says != "" {
				t.Log(err)
				if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") || signalbox.KindOf(err) == signalbox.KindInternal {
					t.Errorf("it gives %v; the sentence should have %q", err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := encrypted(t, st, kind); got == tt.plain {
				t.Errorf("encrypted: %v", got)
			}
		})
	}
}

// encrypted asks the server whether the writer's session is encrypted, and a reader's.
func encrypted(t *testing.T, st *store.Store, kind storetest.Kind) bool {
	t.Helper()
	query := `SELECT CASE WHEN ssl THEN 1 ELSE 0 END FROM pg_stat_ssl WHERE pid = pg_backend_pid()`
	if kind == storetest.MariaDB {
		query = `SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name = 'SSL_CIPHER'`
	}
	var writer, reader int
	err := st.Update(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(t.Context(), query, nil, &writer) })
	if err == nil {
		err = st.Reader().QueryRowContext(t.Context(), query).Scan(&reader)
	}
	if err != nil || writer != reader {
		t.Fatalf("the writer's session %d, the reader's %d, %v", writer, reader, err)
	}
	return writer == 1
}
