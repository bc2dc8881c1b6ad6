/* A calculator of three files, so that there is something to build. */
int sum(const char *text);
int product(const char *text);
