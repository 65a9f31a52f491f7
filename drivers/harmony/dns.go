package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// resolver looks names up from this machine; *net.Resolver is one.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const lookupTime = 3 * time.Second

// dnsCheck sees whether the node's machine is one of those behind its shard's public
// name: people use it, so it must not go offline. What can't be found out is said
// and is no failure, since the names come from a template and need not exist.
func dnsCheck(ctx context.Context, r resolver, shard int, addr core.Addr, a answers) core.Check {
	c := core.Check{Name: "public endpoint", OK: true, Safety: true,
		Want: "not one of the machines behind its shard's public name",
		Fix:  "take another node of the shard, or take this one out of that name first"}
	if a.DNSErr != nil {
		c.Got = "not known: " + a.DNSErr.Error()
		return c
	}
	name := publicName(a.Structure, shard)
	if name == "" {
		c.Got = "the shard has no public name"
		return c
	}
	public, err := lookup(ctx, r, name)
	if err != nil {
		c.Got = fmt.Sprintf("%s does not resolve from here", name)
		return c
	}
	own, err := ownAddrs(ctx, r, addr.Host)
	if err != nil {
		c.Got = fmt.Sprintf("%s does not resolve from here", addr.Host)
		return c
	}
	for _, ip := range own {
		if slices.Contains(public, ip) {
			c.OK, c.Got = false, fmt.Sprintf("%s is behind %s", ip, name)
			return c
		}
	}
	c.Got = "not behind " + name
	return c
}

// publicName is the host name of a shard's endpoint; "" for an address or this machine's own name.
func publicName(structure []shardURL, shard int) string {
	for _, s := range structure {
		if int64(s.Shard) != int64(shard) {
			continue
		}
		u, err := url.Parse(strings.TrimSpace(s.HTTP))
		if err != nil || len(u.Hostname()) > 253 || u.Hostname() == "localhost" {
			return ""
		}
		if _, err := netip.ParseAddr(u.Hostname()); err == nil {
			return ""
		}
		return u.Hostname()
	}
	return ""
}

func lookup(ctx context.Context, r resolver, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	ips, err := r.LookupNetIP(ctx, "ip", host)
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, err
}

// ownAddrs are the addresses of the node's machine: those of its name, or this machine's.
func ownAddrs(ctx context.Context, r resolver, host string) ([]netip.Addr, error) {
	if host == "" {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, err
		}
		var out []netip.Addr
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, p.Addr().Unmap())
			}
		}
		return out, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	return lookup(ctx, r, host)
}
