from apps.pretrain import main

if __name__ == "__main__":
    main()
