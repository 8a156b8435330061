package store

import (
	"crypto/sha256"
	"encoding/json"
	"testing"
)

func TestParseHash(t *testing.T) {
	want := Hash(sha256.Sum256([]byte("hello")))
	for _, s := range []string{
		"sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
		"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
		"094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
		"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
	} {
		if got, err := ParseHash(s); err != nil || got != want {
			t.Errorf("ParseHash(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "sha256:", "sha512:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
		"sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwie",
		"sha256:zf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b98244",
		"sha256:z94qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
	} {
		if got, err := ParseHash(s); err == nil {
			t.Errorf("ParseHash(%q) = %v, want an error", s, got)
		}
	}
}

func TestHashAsText(t *testing.T) {
	type line struct{ Hash Hash }
	for _, want := range []line{{}, {Hash(sha256.Sum256([]byte("hello")))}} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := line{Hash: Hash{1}}
		if err := json.Unmarshal(data, &got); err != nil || got != want {
			t.Errorf("%s reads as %v, %v, want %v", data, got, err, want)
		}
	}
	var h Hash
	if err := json.Unmarshal([]byte(`"md5:00"`), &h); err == nil {
		t.Error("a hash of another algorithm was read")
	}
}
