.PHONY: run dev test check install

run dev test check install:
	@scripts/$@
