package store

import (
	"context"
	"io"
)

// Substitutee takes items that come from a substitute server: what the item is was told
// by the server, and the caller has checked who signed that.
type Substitutee interface {
	// AddSubstitute makes the item valid that info is about. nar is read up to the end of
	// its NAR, or not to its end on an error. The NAR must have the hash and the size of
	// info, else the error matches ErrCorrupt; its references must be valid, and a
	// derivation must have the name that its text gives it. An item that is valid already
	// is left as it is.
	//
	// A store that trusts nobody with such an item, unless its name follows from its
	// contents, returns an error that matches errors.ErrUnsupported for others, as soon as
	// that can be known.
	AddSubstitute(ctx context.Context, info *Info, nar io.Reader) error
}

// Downloader is a store that gets substitutes by itself.
type Downloader interface {
	// Download makes an item valid, with all that it refers to, by a substitute. The
	// servers have these URLs; if there are none they are those that the store knows.
	// Whose signatures count the store decides.
	Download(ctx context.Context, path Path, urls []string) error
}
