package target

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// endless is a receiver that sends without end, in pieces.
type endless struct{ piece int }

func (e endless) Read(p []byte) (int, error) { return min(e.piece, len(p)), nil }

func TestPacedReader(t *testing.T) {
	for _, piece := range []int{1, 512, 64 << 10} {
		synctest.Test(t, func(t *testing.T) {
			r := &pacedReader{from: endless{piece}, since: time.Now()}
			began := time.Now()
			const spans = 4
			if _, err := io.CopyN(io.Discard, r, spans*pacedBytes); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < (spans-1)*pacedSpan || took > (spans+1)*pacedSpan {
				t.Errorf("pieces of %d bytes: %d bytes took %v", piece, spans*pacedBytes, took)
			}
		})
	}
}

func TestPacedReaderLetsTheRestThrough(t *testing.T) {
	text := bytes.Repeat([]byte("ack\n"), 1000)
	r := &pacedReader{from: io.MultiReader(bytes.NewReader(text), failing{})}
	if got, err := io.ReadAll(r); !bytes.Equal(got, text) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

func TestPacedReaderCountsWhatIsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &pacedReader{from: endless{2}, since: time.Now()}
		began := time.Now()
		const packets = 4 * pacedBytes / (2 + pacedEach)
		for range packets {
			if _, err := r.Read(make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			r.took()
		}
		if took := time.Since(began); took < 3*pacedSpan || took > 5*pacedSpan {
			t.Errorf("%d small packets took %v", packets, took)
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, net.ErrClosed }
