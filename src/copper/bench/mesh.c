/* Pings all machines of a virtual cluster from one of them, and says when all have answered.
 *
 * mesh GATEWAY PORT ADDRESS... asks every ADDRESS but its own for an echo until each has answered, then sends its own
 * address to GATEWAY:PORT as one datagram, and ends. Machines begin one after the other: it asks those before it in
 * the list at once, and those after it when they ask, or when nothing has come for AGAIN_MS, AT_ONCE of them at a time:
 * who is not there is not asked for again and again by all. Status 1 after DEADLINE_MS.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1024, AGAIN_MS = 200, AT_ONCE = 16, DEADLINE_MS = 50000 };
static const char RETRANS[] = "/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms"; /* of ARP; a second otherwise */

struct packet {
    struct icmphdr head;
    char text[8];
};

static in_addr_t addresses[MOST];
static bool answered[MOST];
static int count;

static long now_ms(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static in_addr_t own_address(void)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in found = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && ioctl(fd, SIOCGIFADDR, &request) == 0)
        memcpy(&found, &request.ifr_addr, sizeof found);
    close(fd);
    return found.sin_addr.s_addr;
}

static void ask_arp_often(void)
{
    int fd = open(RETRANS, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "100", 3) != 3)
        perror(RETRANS);
    close(fd);
}

static uint16_t checksum(const void *data, size_t bytes)
{
    const uint16_t *words = data;
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes / 2; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~(sum + (sum >> 16));
}

/* Before it is on the wire, or when it has no answer about where that address is, sending fails: it asks again later. */
static void ask(int fd, int which)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = addresses[which]};
    struct packet packet = {.head.type = ICMP_ECHO, .text = "mesh"};
    packet.head.un.echo.id = htons(0x6d65);
    packet.head.un.echo.sequence = htons((uint16_t)which);
    packet.head.checksum = checksum(&packet, sizeof packet);
    (void)!sendto(fd, &packet, sizeof packet, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
}

static int find(in_addr_t address)
{
    for (int i = 0; i < count; i++)
        if (addresses[i] == address)
            return i;
    return -1;
}

/* Takes what has come, and asks back who asks; returns how many have answered now that had not before. */
static int take_all(int fd)
{
    _Alignas(struct iphdr) char raw[512];
    int fresh = 0;
    ssize_t got;
    while ((got = recv(fd, raw, sizeof raw, MSG_DONTWAIT)) > 0) {
        const struct iphdr *ip = (const struct iphdr *)raw;
        size_t skip = (size_t)ip->ihl * 4;
        struct icmphdr head;
        if ((size_t)got < skip + sizeof head)
            continue;
        memcpy(&head, raw + skip, sizeof head);
        int which = find(ip->saddr);
        if (which < 0 || answered[which])
            continue;
        if (head.type == ICMP_ECHOREPLY) {
            answered[which] = true;
            fresh++;
        } else if (head.type == ICMP_ECHO) {
            ask(fd, which);
        }
    }
    return fresh;
}

static void ask_again(int fd)
{
    static int next;
    int asked = 0;
    for (int seen = 0; seen < count && asked < AT_ONCE; seen++, next = (next + 1) % count)
        if (!answered[next]) {
            ask(fd, next);
            asked++;
        }
}

static int report(const char *gateway, const char *port, in_addr_t own)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    struct in_addr address = {own};
    char text[INET_ADDRSTRLEN];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, gateway, &to.sin_addr) != 1)
        return 1;
    if (!inet_ntop(AF_INET, &address, text, sizeof text))
        return 1;
    return sendto(fd, text, strlen(text), 0, (struct sockaddr *)&to, sizeof to) < 0;
}

int main(int argc, char **argv)
{
    in_addr_t own = own_address();
    int left = 0, place, fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    long began = now_ms(), asked = began;
    if (argc < 4 || argc - 3 > MOST || fd < 0 || !own) {
        fprintf(stderr, "usage: mesh GATEWAY PORT ADDRESS..., as root\n");
        return 2;
    }
    for (count = 0; count < argc - 3; count++)
        addresses[count] = inet_addr(argv[count + 3]);
    ask_arp_often();
    place = find(own);
    for (int i = 0; i < count; i++) {
        answered[i] = i == place;
        left += !answered[i];
        if (i < place)
            ask(fd, i);
    }
    while (left > 0 && now_ms() - began < DEADLINE_MS) {
        struct pollfd waits = {.fd = fd, .events = POLLIN};
        int fresh = poll(&waits, 1, AGAIN_MS) > 0 ? take_all(fd) : 0;
        left -= fresh;
        if (fresh > 0)
            asked = now_ms();
        else if (now_ms() - asked >= AGAIN_MS) {
            ask_again(fd);
            asked = now_ms();
        }
    }
    return left > 0 || report(argv[1], argv[2], own);
}
