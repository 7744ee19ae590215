//go:build !linux

package store_test

import "testing"

func tinyDisk(*testing.T, string) (grow func(), ok bool) { return nil, false }
