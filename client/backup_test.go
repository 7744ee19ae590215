package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signalbox"
	"signalbox/client"
)

// backupOf makes a backup of a table with so many rows, whose content nobody looks at.
func backupOf(rows uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte("\x89SBXBAK\n"), 1)
	frame := func(kind byte, n uint32, payload string, more int) {
		b = binary.BigEndian.AppendUint32(append(b, kind), n)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(payload)+more)), payload...)
	}
	frame('H', 0, fmt.Sprintf(`{"made_by":"test","database":"SQLite","schema":2,"position":7,"rows":%d,"tables":1}`, rows), 0)
	frame('T', 0, `{"name":"device"}`, 0)
	frame('R', rows, strings.Repeat("x", 100_000), 0)
	frame('E', 0, fmt.Sprintf(`{"tables":[{"name":"device","rows":%d}],"rows":%d}`, rows, rows), sha256.Size)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestBackup(t *testing.T) {
	good := backupOf(3)
	newer := bytes.Clone(good)
	newer[11] = 2
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	tests := []struct {
		name, code string
		answer     []byte
		abort      bool
	}{
		{"whole", "", good, false},
		{"broken off, and the connection says so", "backup_cut", good[:50_000], true},
		{"broken off, and the connection does not", "backup_cut", good[:len(good)-1], false},
		{"empty", "backup_cut", nil, false},
		{"damaged", "backup_damaged", flipped, false},
		{"with more", "backup_damaged", append(bytes.Clone(good), 'x'), false},
		{"newer", "backup_newer", newer, false},
		{"something else", "not_signalbox", []byte("<html>welcome to this page</html>"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/backup" || r.URL.Query().Get("key") != "true" {
					t.Errorf("asked for %s", r.URL)
				}
				_, _ = w.Write(tt.answer)
				if tt.abort {
					panic(http.ErrAbortHandler)
				}
			}))
			defer server.Close()
			hub, err := client.New(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			seen := [2]int64{}
			report, err := hub.Backup(t.Context(), &got, client.BackupOptions{WithKey: true, Progress: func(done, total int64) { seen = [2]int64{done, total} }})
			if codeOf(err) != tt.code {
				t.Fatalf("it gives %v", err)
			}
			if tt.code != "" {
				return
			}
			if !bytes.Equal(got.Bytes(), good) || report.Bytes != int64(len(good)) || report.Rows != 3 || report.Position != 7 || report.Database != "SQLite" || len(report.Tables) != 1 || seen != [2]int64{3, 3} {
				t.Errorf("%d bytes came, %+v, progress %v", got.Len(), report, seen)
			}
			if _, err := hub.Backup(t.Context(), fullDisk{}, client.BackupOptions{WithKey: true}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
				t.Errorf("a full disk gives %v", err)
			}
		})
	}
}

// codeOf is signalbox.CodeOf, and "" for no error.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return signalbox.CodeOf(err)
}
