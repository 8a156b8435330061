package narinfo

import (
	"fmt"
	"strconv"
	"strings"

	"lighter/store"
)

// CacheInfoName is the file of a server that CacheInfo is in.
const CacheInfoName = "nix-cache-info"

// CacheInfo is what a server says of itself.
type CacheInfo struct {
	StoreDir      store.Dir
	WantMassQuery bool
	Priority      int // the least is asked first; 0 if not given
}

// ParseCacheInfo reads a server's nix-cache-info.
func ParseCacheInfo(text []byte) (*CacheInfo, error) {
	const most = 4 << 10
	if len(text) > most {
		return nil, fmt.Errorf("%s: it has %d bytes, more than %d", CacheInfoName, len(text), most)
	}
	c := new(CacheInfo)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		var err error
		switch name {
		case "StoreDir":
			c.StoreDir, err = store.ParseDir(value)
		case "WantMassQuery":
			c.WantMassQuery = value == "1"
		case "Priority":
			c.Priority, err = strconv.Atoi(value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", CacheInfoName, name, err)
		}
	}
	if c.StoreDir == "" {
		return nil, fmt.Errorf("%s: it has no StoreDir", CacheInfoName)
	}
	return c, nil
}

// String returns the text of the file.
func (c *CacheInfo) String() string {
	mass := 0
	if c.WantMassQuery {
		mass = 1
	}
	return fmt.Sprintf("StoreDir: %s\nWantMassQuery: %d\nPriority: %d\n", c.StoreDir, mass, c.Priority)
}

// Name returns the file of a server in which an item's narinfo is.
func Name(path store.Path) string { return path.HashPart() + ".narinfo" }
