package publish

import (
	"os"
	"testing"

	"lighter/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	os.Exit(m.Run())
}
