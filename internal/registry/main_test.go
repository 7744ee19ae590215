package registry_test

import (
	"os"
	"testing"

	"signalbox/internal/store/storetest"
)

// All tests run on each kind of database.
func TestMain(m *testing.M) { os.Exit(storetest.MainEach(m)) }
