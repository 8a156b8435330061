package store

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func readTestdata(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestBase32OfGuix(t *testing.T) {
	var vectors []struct{ Hex, Base32 string }
	readTestdata(t, "base32.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		raw, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := EncodeBase32(raw); got != v.Base32 {
			t.Errorf("EncodeBase32(%s) = %s, want %s", v.Hex, got, v.Base32)
		}
		got, err := DecodeBase32(v.Base32)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("DecodeBase32(%s) = %x, %v, want %s", v.Base32, got, err, v.Hex)
		}
	}
}

func TestBase32Empty(t *testing.T) {
	if got := EncodeBase32(nil); got != "" {
		t.Errorf("EncodeBase32(nil) = %q", got)
	}
	if got, err := DecodeBase32(""); err != nil || len(got) != 0 {
		t.Errorf(`DecodeBase32("") = %x, %v`, got, err)
	}
}

func TestDecodeBase32Refuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"half a byte", "0", "whole bytes"},
		{"three digits", "000", "whole bytes"},
		{"letter outside the alphabet", "0e", `digit 'e' at offset 1`},
		{"upper case", "0A", `digit 'A' at offset 1`},
		{"byte that is not ASCII", "0\xff", "at offset 1"},
		{"more bits than bytes", "80", "beyond the last byte"},
		{"more bits than bytes, all", "zz", "beyond the last byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeBase32(tt.in)
			if err == nil {
				t.Fatalf("DecodeBase32(%q) = %x, want an error", tt.in, got)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}

func FuzzDecodeBase32(f *testing.F) {
	f.Add("094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic")
	f.Add("7z")
	f.Add("zz")
	f.Fuzz(func(t *testing.T, s string) {
		raw, err := DecodeBase32(s)
		if err != nil {
			return
		}
		if got := EncodeBase32(raw); got != s {
			t.Errorf("%q decodes to %x, which is written %q", s, raw, got)
		}
	})
}

func FuzzEncodeBase32(f *testing.F) {
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := EncodeBase32(raw)
		if len(s) != Base32Len(len(raw)) {
			t.Errorf("%d digits, Base32Len says %d", len(s), Base32Len(len(raw)))
		}
		got, err := DecodeBase32(s)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%x is written %q, which decodes to %x, %v", raw, s, got, err)
		}
	})
}
