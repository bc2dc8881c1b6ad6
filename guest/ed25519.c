/* A point of the curve -x² + y² = 1 + dx²y² modulo 2²⁵⁵ - 19, times a number. Numbers are five limbs of 51 bits. */
#include "ed25519.h"

#include <string.h>

typedef uint64_t number[5];
__extension__ typedef unsigned __int128 product;

static const uint64_t limb = (UINT64_C(1) << 51) - 1;

/* Of the curve, as x, y, z, t with x/z, y/z and t = xy/z. */
struct point {
	number x, y, z, t;
};

static const struct point base = {
	{0x62d608f25d51a, 0x412a4b4f6592a, 0x75b7171a4b31d, 0x1ff60527118fe, 0x216936d3cd6e5},
	{0x6666666666658, 0x4cccccccccccc, 0x1999999999999, 0x3333333333333, 0x6666666666666},
	{1},
	{0x68ab3a5b7dda3, 0xeea2a5eadbb, 0x2af8df483c27e, 0x332b375274732, 0x67875f0fd78b7},
};
static const number twice_d = {0x69b9426b2f159, 0x35050762add7a, 0x3cf44c0038052, 0x6738cc7407977, 0x2406d9dc56dff};

static void carry(number to, const product from[5])
{
	product over = 0;
	for (int i = 0; i < 5; i++) {
		over += from[i];
		to[i] = (uint64_t)over & limb;
		over >>= 51;
	}
	over = over * 19 + to[0]; /* 2²⁵⁵ is 19 */
	to[0] = (uint64_t)over & limb;
	to[1] += (uint64_t)(over >> 51);
}

static void multiply(number to, const number a, const number b)
{
	product sum[5] = {0};
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < 5; j++)
			sum[(i + j) % 5] += (product)a[i] * (b[j] * (i + j < 5 ? 1 : 19));
	carry(to, sum);
}

static void add(number to, const number a, const number b)
{
	product sum[5];
	for (int i = 0; i < 5; i++)
		sum[i] = (product)a[i] + b[i];
	carry(to, sum);
}

/* Four times the modulus is added, so that no limb falls below nothing. */
static void subtract(number to, const number a, const number b)
{
	product sum[5];
	for (int i = 0; i < 5; i++)
		sum[i] = (product)a[i] + 4 * (limb - (i ? 0 : 18)) - b[i];
	carry(to, sum);
}

/* To the power of the modulus less 2, which is its inverse: of its 255 bits all but those of 4 and 16 are ones. */
static void invert(number to, const number from)
{
	number power = {1};
	for (int bit = 254; bit >= 0; bit--) {
		multiply(power, power, power);
		if (bit != 2 && bit != 4)
			multiply(power, power, from);
	}
	memcpy(to, power, sizeof power);
}

/* Holds for any two points, so for one and itself too (Hisil, Wong, Carter, Dawson 2008, section 3.1). */
static void add_points(struct point *to, const struct point *p, const struct point *q)
{
	number a, b, c, d, e, f, g, h;
	subtract(a, p->y, p->x);
	subtract(b, q->y, q->x);
	multiply(a, a, b);
	add(b, p->y, p->x);
	add(c, q->y, q->x);
	multiply(b, b, c);
	multiply(c, p->t, q->t);
	multiply(c, c, twice_d);
	multiply(d, p->z, q->z);
	add(d, d, d);
	subtract(e, b, a);
	subtract(f, d, c);
	add(g, d, c);
	add(h, b, a);
	multiply(to->x, e, f);
	multiply(to->y, g, h);
	multiply(to->z, f, g);
	multiply(to->t, e, h);
}

/* The one number below the modulus, lowest byte first. */
static void write_number(uint8_t bytes[ED25519_BYTES], const number from)
{
	number n;
	product plus[5] = {19};
	memcpy(n, from, sizeof n);
	for (int times = 0; times < 2; times++) {
		product same[5] = {n[0], n[1], n[2], n[3], n[4]};
		carry(n, same);
	}
	for (int i = 0; i < 5; i++)
		plus[i] += n[i];
	for (int i = 0; i < 4; i++)
		plus[i + 1] += plus[i] >> 51;
	if (plus[4] >> 51) /* it was the modulus or more */
		for (int i = 0; i < 5; i++)
			n[i] = (uint64_t)plus[i] & limb;
	memset(bytes, 0, ED25519_BYTES);
	for (int bit = 0; bit < 255; bit++)
		bytes[bit / 8] |= (uint8_t)((n[bit / 51] >> (bit % 51) & 1) << (bit % 8));
}

void ed25519_public(const uint8_t secret[ED25519_BYTES], uint8_t public[ED25519_BYTES])
{
	uint8_t hash[64], odd[ED25519_BYTES];
	struct point sum = {.y = {1}, .z = {1}}; /* nothing yet */
	number z;
	sha512_short(secret, ED25519_BYTES, hash);
	hash[0] &= 248;
	hash[31] = (hash[31] & 127) | 64;
	for (int bit = 254; bit >= 0; bit--) {
		add_points(&sum, &sum, &sum);
		if (hash[bit / 8] >> (bit % 8) & 1)
			add_points(&sum, &sum, &base);
	}
	invert(z, sum.z);
	multiply(sum.x, sum.x, z);
	multiply(sum.y, sum.y, z);
	write_number(public, sum.y);
	write_number(odd, sum.x);
	public[31] |= (uint8_t)(odd[0] << 7);
	explicit_bzero(hash, sizeof hash);
	explicit_bzero(&sum, sizeof sum);
}
