package replay

import (
	"log/slog"
	"testing"

	"signalbox/internal/store"
)

func TestInstanceID(t *testing.T) {
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	first, err := InstanceID(t.Context(), st)
	if err != nil || len(first) != 2*instanceBytes {
		t.Fatalf("the instance is %q, %v", first, err)
	}
	if again, err := InstanceID(t.Context(), st); again != first || err != nil {
		t.Errorf("the instance became %q, %v", again, err)
	}
}
