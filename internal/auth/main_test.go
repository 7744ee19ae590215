package auth

import (
	"os"
	"testing"

	"signalbox/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
