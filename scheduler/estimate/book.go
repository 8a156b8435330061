package estimate

// Book has the samples of many packages, and what they say of builds like them, in memory.
type Book struct {
	packages map[Key][]Sample // most recent first
	systems  map[string]*Class
	kinds    map[Kind]*Class
}

// NewBook returns an empty one.
func NewBook() *Book {
	return &Book{packages: make(map[Key][]Sample), systems: make(map[string]*Class), kinds: make(map[Kind]*Class)}
}

// Len is of how many packages it has samples.
func (b *Book) Len() int { return len(b.packages) }

// Add adds a sample that is more recent than those of its package that are there.
func (b *Book) Add(k Key, s Sample) {
	samples := b.packages[k.page()]
	if len(samples) < MaxSamples {
		samples = append(samples, s)
	}
	copy(samples[1:], samples)
	samples[0] = s
	b.packages[k.page()] = samples
	observe(b.kinds, k.Kind, &s)
	if k.BuildSystem != "" {
		observe(b.systems, k.BuildSystem, &s)
	}
}

// Of says what a build will probably take.
func (b *Book) Of(k Key) Estimate {
	return Of(k, b.packages[k.page()], b.systems[k.BuildSystem], b.kinds[k.Kind])
}

// page is what samples of a package have in common.
func (k *Key) page() Key { return Key{Kind: k.Kind, Name: k.Name, System: k.System} }

func observe[K comparable](classes map[K]*Class, key K, s *Sample) {
	if classes[key] == nil {
		classes[key] = new(Class)
	}
	classes[key].Observe(s)
}
